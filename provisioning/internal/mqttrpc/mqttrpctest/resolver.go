// SPDX-License-Identifier: Apache-2.0

package mqttrpctest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DeadIPv6 makes a dialer for which every name has two addresses, ::1 and 127.0.0.1, and no packet to the first
// arrives: what a site looks like whose router promises IPv6 and has none. It is for real sockets.
func DeadIPv6() *net.Dialer {
	return &net.Dialer{
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go answerNames(there)
			return here, nil
		}},
		FallbackDelay: time.Millisecond,
		ControlContext: func(ctx context.Context, network, _ string, _ syscall.RawConn) error {
			if network == "tcp6" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		},
	}
}

// answerNames is a name server over one stream, which ends with it.
func answerNames(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var length uint16
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		query := make([]byte, length)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		var message dnsmessage.Message
		if message.Unpack(query) != nil || len(message.Questions) != 1 {
			return
		}
		message.Response, message.Additionals = true, nil
		question := message.Questions[0]
		answer := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: 60}}
		switch question.Type {
		case dnsmessage.TypeA:
			answer.Body = &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}
		case dnsmessage.TypeAAAA:
			answer.Body = &dnsmessage.AAAAResource{AAAA: [16]byte(net.IPv6loopback)}
		}
		if answer.Body != nil {
			message.Answers = []dnsmessage.Resource{answer}
		}
		packed, err := message.Pack()
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)); err != nil {
			return
		}
	}
}
