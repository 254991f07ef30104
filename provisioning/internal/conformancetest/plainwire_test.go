// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const quickTries = 2 // after a connection could not be made

func (p *plain) newPool(d *Device) *http.Transport {
	pool := &http.Transport{
		DialContext:         p.env.DialContext,
		TLSClientConfig:     p.secure(d),
		MaxConnsPerHost:     64,
		MaxIdleConnsPerHost: 64,
	}
	// net/http itself asks again when a kept connection breaks.
	pool.DisableKeepAlives = p.has(failsOnBreaks)
	if p.has(noPoolLimit) {
		pool.MaxConnsPerHost, pool.MaxIdleConnsPerHost = 0, 0
	}
	return pool
}

// secure is how to speak TLS for a device.
func (p *plain) secure(d *Device) *tls.Config {
	config := &tls.Config{RootCAs: p.env.RootCAs, ServerName: p.env.Endpoint, MinVersion: tls.VersionTLS12}
	if d.Certificate != nil {
		pair, err := tls.X509KeyPair(d.Certificate, d.Certificate)
		if err == nil {
			config.Certificates = []tls.Certificate{pair}
		}
	}
	return config
}

func (p *plain) newWire(d *Device) wire {
	if p.env.Transport == MQTT {
		return &overMQTT{plain: p, device: d}
	}
	w := &overHTTPS{plain: p, device: d, pool: p.pool}
	if p.has(poolPerDevice) || d.Certificate != nil {
		w.pool = p.newPool(d)
	}
	if p.has(onePoolForAll) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.firstPool == nil {
			p.firstPool = p.newPool(d)
		}
		w.pool = p.firstPool
	}
	return w
}

// overHTTPS is a device's way over HTTPS.
type overHTTPS struct {
	*plain
	device *Device
	pool   *http.Transport
	kept   string // with a defect, the only token
}

func (w *overHTTPS) close() {
	if w.pool != w.plain.pool && w.pool != w.firstPool {
		w.pool.CloseIdleConnections()
	}
}

func (w *overHTTPS) exchange(ctx context.Context, kind, operation string, body []byte) (answer, error) {
	client := &http.Client{Transport: w.pool, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if w.has(followsRedirects) {
		client.CheckRedirect = nil
	}
	method, path := http.MethodPut, url.PathEscape(w.device.RegistrationID)+"/register"
	if kind == "poll" {
		method, path, body = http.MethodGet, url.PathEscape(w.device.RegistrationID)+"/operations/"+url.PathEscape(operation), nil
	}
	for try := 0; ; try++ {
		request, err := http.NewRequestWithContext(ctx, method,
			"https://"+w.env.Endpoint+"/"+w.env.IDScope+"/registrations/"+path+"?api-version=2021-06-01", bytes.NewReader(body))
		if err != nil {
			return answer{}, err
		}
		if w.device.Certificate == nil {
			if w.kept == "" || !w.has(oneToken) {
				w.kept = w.token(w.device)
			}
			request.Header.Set("Authorization", w.kept)
		}
		if w.has(logsTokens) {
			w.env.Logger.Debug("sending", "authorization", w.kept)
		}
		request.Header.Set("Content-Type", "application/json")
		got := answer{sent: time.Now()}
		response, err := client.Do(request)
		if err == nil {
			got.status, got.hint = response.StatusCode, response.Header.Get("Retry-After")
			got.date, _ = http.ParseTime(response.Header.Get("Date"))
			got.body, err = io.ReadAll(io.LimitReader(response.Body, 128<<10))
			_ = response.Body.Close()
			got.at = time.Now()
			if got.status >= 429 && w.has(retriesAnswers) && try < quickTries {
				continue
			}
			return got, err
		}
		if w.has(emptiesPool) {
			w.pool.CloseIdleConnections()
		}
		var failed *net.OpError
		dial := errors.As(err, &failed) && failed.Op == "dial"
		again := dial || kind == "poll" && !w.has(failsOnBreaks) || w.has(repeatsPut)
		if !again || w.has(noHiccups) || try == quickTries || ctx.Err() != nil {
			return answer{}, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// overMQTT is a device's way over MQTT: one connection, packet after packet.
type overMQTT struct {
	*plain
	device *Device
	conn   net.Conn
	kept   string // with a defect, the only token
	sent   int
}

func (w *overMQTT) close() {
	if w.conn == nil || w.has(leavesConnections) {
		return
	}
	_ = packets.NewControlPacket(packets.Disconnect).Write(w.conn)
	w.drop()
}

func (w *overMQTT) drop() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

func (w *overMQTT) exchange(ctx context.Context, kind, operation string, body []byte) (answer, error) {
	for try := 0; ; try++ {
		var written bool
		got, err := w.try(ctx, kind, operation, body, &written)
		if err == nil && got.status >= 429 && w.has(retriesAnswers) && try < quickTries {
			continue
		}
		if err == nil {
			return got, nil
		}
		w.drop()
		again := !written || kind == "poll" && !w.has(failsOnBreaks) || w.has(repeatsPut)
		if !again || w.has(noHiccups) || try == quickTries || ctx.Err() != nil {
			return answer{}, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (w *overMQTT) try(ctx context.Context, kind, operation string, body []byte, written *bool) (answer, error) {
	if w.conn == nil {
		if err := w.connect(ctx); err != nil {
			return answer{}, err
		}
	}
	conn := w.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	w.sent++
	message := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	message.Qos, message.MessageID = 1, uint16(w.sent)
	message.TopicName = fmt.Sprintf("$dps/registrations/PUT/iotdps-register/?$rid=%d", w.sent)
	message.Payload = body
	if kind == "poll" {
		message.TopicName = fmt.Sprintf("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=%d&operationId=%s", w.sent, operation)
		message.Payload = nil
	}
	*written = true
	got := answer{sent: time.Now()}
	if err := message.Write(w.conn); err != nil {
		return answer{}, err
	}
	for {
		packet, err := packets.ReadPacket(w.conn)
		if err != nil {
			return answer{}, err
		}
		reply, ok := packet.(*packets.PublishPacket)
		if !ok {
			continue
		}
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = reply.MessageID
		_ = ack.Write(w.conn)
		path, query, _ := strings.Cut(reply.TopicName, "?")
		got.status, _ = strconv.Atoi(strings.Trim(strings.TrimPrefix(path, "$dps/registrations/res/"), "/"))
		params, _ := url.ParseQuery(query)
		got.hint, got.body, got.at = params.Get("retry-after"), reply.Payload, time.Now()
		return got, nil
	}
}

func (w *overMQTT) connect(ctx context.Context) error {
	raw, err := w.env.DialContext(ctx, "tcp", w.env.Endpoint+":8883")
	if err != nil {
		return err
	}
	w.conn = tls.Client(raw, w.secure(w.device))
	if w.device.Certificate == nil && (w.kept == "" || !w.has(oneToken)) {
		w.kept = w.token(w.device)
	}
	if w.has(logsTokens) {
		w.env.Logger.Debug("connecting", "password", w.kept)
	}
	hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession = "MQTT", 4, true
	hello.ClientIdentifier = w.device.RegistrationID
	hello.UsernameFlag, hello.Username = true, w.env.IDScope+"/registrations/"+w.device.RegistrationID+"/api-version=2021-06-01"
	hello.PasswordFlag, hello.Password = w.kept != "", []byte(w.kept)
	filter := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	filter.MessageID, filter.Topics, filter.Qoss = 1, []string{"$dps/registrations/res/#"}, []byte{1}
	for _, packet := range []packets.ControlPacket{hello, filter} {
		if err := packet.Write(w.conn); err != nil {
			return err
		}
		if _, err := packets.ReadPacket(w.conn); err != nil {
			return err
		}
	}
	return nil
}
