// SPDX-License-Identifier: Apache-2.0

package netdial

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// maxAnswer bounds a proxy's answer to CONNECT: a status line and headers, of which only the status is used.
const maxAnswer = 64 << 10

var (
	errNotHTTP   = errors.New("its answer is not HTTP")
	errTalkative = errors.New("it sent something of its own into the tunnel")
)

// tunnel connects to a proxy and has it connect to address. The status is that of its answer, 0 if there was none.
func (d *Dialer) tunnel(ctx context.Context, network string, proxy *url.URL, address string) (_ net.Conn, status int, err error) {
	if !isPlain(address) {
		return nil, 0, fmt.Errorf("%q is no address", address)
	}
	raw, err := d.connect(ctx, network, hostPort(proxy))
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelTimeout)
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = raw.Close() })

	conn := raw
	if proxy.Scheme == "https" {
		secure := d.secure(raw, proxy)
		conn, err = secure, secure.HandshakeContext(ctx)
	}
	if err == nil {
		status, err = ask(conn, proxy, address)
	}
	// From here on the end of ctx no longer closes the connection, unless it has done so already.
	if !release() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = ctx.Err() // and not that the connection is closed
		}
		return nil, status, err
	}
	return conn, status, nil
}

// ask sends CONNECT and reads the answer.
func ask(conn net.Conn, proxy *url.URL, address string) (status int, err error) {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
		request += "Proxy-Authorization: Basic " + credentials + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return 0, err
	}
	bounded := &io.LimitedReader{R: conn, N: maxAnswer}
	reader := bufio.NewReader(bounded)
	//nolint:bodyclose // it has none that anybody reads, and closing it would wait for one
	answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return 0, noAnswer(err, bounded.N == 0)
	}
	credentials := (&ProxyError{Status: answer.StatusCode}).Credentials()
	switch {
	case credentials && proxy.User == nil:
		return answer.StatusCode, fmt.Errorf("it wants a user name and a password (status %d)", answer.StatusCode)
	case credentials:
		return answer.StatusCode, fmt.Errorf("it did not accept the user name and the password (status %d)", answer.StatusCode)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return answer.StatusCode, fmt.Errorf("it did not connect to %s (status %d)", address, answer.StatusCode)
	case reader.Buffered() > 0: // in TLS the client speaks first
		return answer.StatusCode, errTalkative
	}
	return answer.StatusCode, nil
}

// noAnswer tells an answer that is no HTTP from a connection that gave none.
func noAnswer(err error, tooLong bool) error {
	var network net.Error
	switch {
	case tooLong:
		return errNotHTTP
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("waiting for its answer: %w", err)
	default:
		return errNotHTTP
	}
}
