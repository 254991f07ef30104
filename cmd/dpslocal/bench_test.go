// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// groupKey is the group's key in all benchmarks.
const groupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

// BenchmarkRegistrations registers devices, 1, 50 and 200 at once, with a server
// in a process of its own and its store on disk, and prints registrations a
// second and the processor time that the server and its clients spent on each.
//
//	https      each device has a connection open
//	mqtt       each registration has a connection of its own, with its handshake
//	mqtt-ws    the same over a WebSocket
//	handshake  a bare TLS handshake each, which is what bounds the one before
func BenchmarkRegistrations(b *testing.B) {
	for _, transport := range []struct {
		name   string
		device func(*benchServer) func(id string) error
	}{
		{"https", (*benchServer).httpsDevice},
		{"mqtt", (*benchServer).mqttDevice},
		{"mqtt-ws", (*benchServer).webSocketDevice},
		{"handshake", (*benchServer).handshakeDevice},
	} {
		for _, devices := range []int{1, 50, 200} {
			b.Run(fmt.Sprintf("%s/%d-at-once", transport.name, devices), func(b *testing.B) {
				server := startBenchServer(b)
				serverCPU, clientCPU := server.cpu(b), ownCPU(b)
				b.ResetTimer()

				var next atomic.Int64
				var workers sync.WaitGroup
				for range devices {
					register := transport.device(server)
					workers.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if err := register(fmt.Sprintf("device-%d", i)); err != nil {
								b.Errorf("device-%d: %v", i, err)
								return
							}
						}
					})
				}
				workers.Wait()
				b.StopTimer()

				n := float64(b.N)
				b.ReportMetric(n/b.Elapsed().Seconds(), "registrations/s")
				b.ReportMetric(float64((server.cpu(b)-serverCPU).Microseconds())/n, "server-cpu-µs/op")
				b.ReportMetric(float64((ownCPU(b)-clientCPU).Microseconds())/n, "client-cpu-µs/op")
				b.ReportMetric(0, "ns/op") // says the same as the first, but wrong for many at once
			})
		}
	}
}

// benchServer is a dpslocal that runs in a process of its own.
type benchServer struct {
	https, mqtt, scope string
	roots              *x509.CertPool
	cmd                *exec.Cmd
	log                bytes.Buffer
}

// startBenchServer runs a server for a benchmark.
func startBenchServer(b *testing.B) *benchServer {
	b.Helper()
	s := startProcess(b, b.TempDir())
	b.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		if err := s.cmd.Wait(); err != nil {
			b.Errorf("dpslocal: %v\n%s", err, s.log.String())
		}
	})
	return s
}

// startProcess runs this test binary as dpslocal in a directory.
func startProcess(t testing.TB, dir string) *benchServer {
	t.Helper()
	config := filepath.Join(dir, "dpslocal.toml")
	text := "id_scope = \"0ne00ABCDEF\"\nretry_after = \"0s\"\n[[hub]]\nname = \"h.example\"\n" +
		"[[enrollment_group]]\nid = \"g\"\nprimary_key = \"" + groupKey + "\"\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &benchServer{cmd: exec.Command(self), roots: x509.NewCertPool()}
	s.cmd.Args = []string{"dpslocal", "--config", config, "--dir", filepath.Join(dir, "d"), "--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}
	s.cmd.Stderr = &s.log
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line struct{ HTTPS, MQTT, CA, IDScope string }
	if err := json.NewDecoder(stdout).Decode(&line); err != nil {
		t.Fatalf("dpslocal: %v", err)
	}
	pem, err := os.ReadFile(line.CA)
	if err != nil {
		t.Fatal(err)
	}
	s.https, s.mqtt, s.scope = line.HTTPS, line.MQTT, line.IDScope
	s.roots.AppendCertsFromPEM(pem)
	return s
}

// cpu is the processor time that the server has used, to a hundredth of a second.
func (s *benchServer) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		b.Skipf("the processor time of another process is read the way Linux tells it: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// ownCPU is the processor time that this process has used.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// httpsDevice registers over one connection that stays open.
func (s *benchServer) httpsDevice() func(id string) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
	return func(id string) error {
		base := "https://" + s.https + "/" + s.scope + "/registrations/" + id
		token := deviceToken(s.scope+"/registrations/"+id, id, groupKey)
		_, status, err := tryCall(client, "PUT", base+"/register?api-version=2021-06-01", token)
		for err == nil && status.Status == "assigning" {
			_, status, err = tryCall(client, "GET", base+"/operations/"+status.OperationID+"?api-version=2021-06-01", token)
		}
		if err == nil && status.Status != "assigned" {
			err = fmt.Errorf("%+v", status)
		}
		return err
	}
}

// handshakeDevice connects and says nothing.
func (s *benchServer) handshakeDevice() func(id string) error {
	return func(string) error {
		conn, err := tls.Dial("tcp", s.mqtt, &tls.Config{RootCAs: s.roots})
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// mqttDevice connects for each registration.
func (s *benchServer) mqttDevice() func(id string) error {
	return func(id string) error {
		conn, err := tls.Dial("tcp", s.mqtt, &tls.Config{RootCAs: s.roots})
		if err != nil {
			return err
		}
		defer conn.Close()
		return s.registerOver(conn, id)
	}
}

// webSocketDevice connects for each registration, over a WebSocket.
func (s *benchServer) webSocketDevice() func(id string) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}
	options := &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"mqtt"}}
	return func(id string) error {
		ctx := context.Background()
		ws, _, err := websocket.Dial(ctx, "wss://"+s.https+"/$iothub/websocket", options)
		if err != nil {
			return err
		}
		defer func() { _ = ws.CloseNow() }()
		return s.registerOver(websocket.NetConn(ctx, ws, websocket.MessageBinary), id)
	}
}

// registerOver speaks MQTT: CONNECT, SUBSCRIBE, and then calls and answers.
func (s *benchServer) registerOver(conn io.ReadWriter, id string) error {
	reader := bufio.NewReader(conn)
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion, connect.CleanSession = "MQTT", 4, true
	connect.ClientIdentifier, connect.Keepalive = id, 60
	connect.Username, connect.UsernameFlag = s.scope+"/registrations/"+id+"/api-version=2019-03-31", true
	connect.Password, connect.PasswordFlag = []byte(deviceToken(s.scope+"/registrations/"+id, id, groupKey)), true
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{"$dps/registrations/res/#"}, []byte{0}
	for _, packet := range []packets.ControlPacket{connect, subscribe} {
		if err := packet.Write(conn); err != nil {
			return err
		}
		if _, err := packets.ReadPacket(reader); err != nil {
			return err
		}
	}
	topic := "$dps/registrations/PUT/iotdps-register/?$rid=1"
	for {
		call := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		call.TopicName = topic
		if err := call.Write(conn); err != nil {
			return err
		}
		packet, err := packets.ReadPacket(reader)
		if err != nil {
			return err
		}
		answer, ok := packet.(*packets.PublishPacket)
		if !ok {
			return fmt.Errorf("got %v, want an answer", packet)
		}
		var status operationStatus
		if err := json.Unmarshal(answer.Payload, &status); err != nil {
			return err
		}
		switch status.Status {
		case "assigned":
			return nil
		case "assigning":
			topic = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=" + status.OperationID
		default:
			return fmt.Errorf("%s %s", answer.TopicName, answer.Payload)
		}
	}
}
