// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/contoso/gatewayd/provisioning"
)

// maxFile bounds the files that are read, keys and certificates alike.
const maxFile = 1 << 20

// readFile reads a file of bounded size.
func readFile(path string) ([]byte, error) { return readBounded(path, maxFile) }

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("reading %s: it is larger than %d KiB", path, limit>>10)
	}
	return content, nil
}

// readKeys reads the keys of a file, primary first, secondary on a second line
// if there is one, in the form that parse takes.
func readKeys[Key any](path string, parse func(string) (Key, error)) ([]Key, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(string(content))
	if len(lines) == 0 || len(lines) > 2 {
		return nil, fmt.Errorf("%s: %w: it holds %d of them; one belongs on the first line and, if wanted, the secondary on the second", path, provisioning.ErrKey, len(lines))
	}
	var keys []Key
	for i, line := range lines {
		key, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// readGroupKeyFrom reads one group key from standard input. At a terminal it
// asks, and does not show what is typed.
func readGroupKeyFrom(stdin io.Reader, prompt io.Writer) (provisioning.GroupKey, error) {
	var content []byte
	var err error
	if file, ok := stdin.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		fmt.Fprint(prompt, "Key of the enrollment group (not shown): ")
		content, err = term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(prompt)
	} else {
		content, err = io.ReadAll(io.LimitReader(stdin, maxFile))
	}
	if err != nil {
		return provisioning.GroupKey{}, fmt.Errorf("reading the group key from standard input: %w", err)
	}
	key, err := provisioning.ParseGroupKey(string(content))
	if err != nil {
		return provisioning.GroupKey{}, fmt.Errorf("standard input: %w", err)
	}
	return key, nil
}
