// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptAgain runs a command until it ends well, or with ! badly, and says
// something on standard output:
//
//	[!] again PATTERN COMMAND [ARG]...
//
// It is for what depends on real time: a machine that stalls a simulated appliance
// makes a mute one of it. What is wrong by its code is wrong all ten times.
func scriptAgain(ts *testscript.TestScript, neg bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	for range 10 {
		err := ts.Exec(args[1], args[2:]...)
		if (err != nil) == neg && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		ts.Logf("made again, because of %v, or no match for %q", err, args[0])
	}
	ts.Fatalf("not once in ten times")
}

// scriptHolds waits until a file holds a text:
//
//	holds FILE PATTERN
func scriptHolds(ts *testscript.TestScript, _ bool, args []string) {
	path, pattern := ts.MkAbs(args[0]), regexp.MustCompile("(?m)"+args[1])
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(path)
		if err == nil && pattern.Match(text) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no %q in %s, %v:\n%s", args[1], args[0], err, text)
		}
	}
}
