// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// The parts of RFC 6455 that a server of MQTT needs.
const (
	webSocketPath   = "/$iothub/websocket"                   // dps-protocol 7
	webSocketAccept = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 1.3

	opContinuation, opBinary, opClose, opPing, opPong = 0x0, 0x2, 0x8, 0x9, 0xA
)

// serveWebSocket upgrades a request and serves MQTT within.
func (s *Service) serveWebSocket(w http.ResponseWriter, r *http.Request, below *Connection) {
	offered := r.Header.Get("Sec-WebSocket-Protocol")
	if r.URL.Path != webSocketPath || !strings.EqualFold(offered, "mqtt") || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "not MQTT over WebSocket", http.StatusBadRequest)
		return
	}
	_, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + webSocketAccept))
	_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\nSec-WebSocket-Protocol: " + offered + "\r\n\r\n")
	_ = buffered.Flush()
	s.MQTT.ServeConn(&webSocket{Conn: below, below: below, in: buffered.Reader})
}

// webSocket is the byte stream within a WebSocket's binary frames.
type webSocket struct {
	net.Conn
	below *Connection
	in    *bufio.Reader
	rest  []byte // of the frame that is being read

	mu sync.Mutex // one frame at a time
}

func (w *webSocket) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		op, data, err := readFrame(w.in)
		switch {
		case err != nil:
			return 0, err
		case op == opBinary, op == opContinuation:
			w.rest = data
		case op == opPing:
			if err := w.write(opPong, data); err != nil {
				return 0, err
			}
		case op == opClose:
			_ = w.write(opClose, data[:min(len(data), 2)])
			return 0, io.EOF
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

func (w *webSocket) Write(p []byte) (int, error) {
	if err := w.write(opBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *webSocket) write(op byte, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.Conn.Write(append(frameHead(op, len(data)), data...))
	return err
}

// frameHead is the head of a whole frame that is not masked.
func frameHead(op byte, length int) []byte {
	head := []byte{0x80 | op}
	switch {
	case length < 126:
		return append(head, byte(length))
	case length <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(head, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(head, 127), uint64(length))
	}
}

// readFrame reads a frame of a client and takes its mask off.
func readFrame(in *bufio.Reader) (op byte, data []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	if head[1]&0x80 == 0 {
		return 0, nil, errors.New("a client's frame is not masked")
	}
	length := uint64(head[1] & 0x7F)
	if extra := map[uint64]int{126: 2, 127: 8}[length]; extra > 0 {
		var long [8]byte
		if _, err := io.ReadFull(in, long[8-extra:]); err != nil {
			return 0, nil, err
		}
		length = binary.BigEndian.Uint64(long[:])
	}
	if length > 1<<20 {
		return 0, nil, errors.New("a frame above 1 MiB")
	}
	var mask [4]byte
	if _, err := io.ReadFull(in, mask[:]); err != nil {
		return 0, nil, err
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(in, data); err != nil {
		return 0, nil, err
	}
	for i := range data {
		data[i] ^= mask[i%4]
	}
	return head[0] & 0x0F, data, nil
}
