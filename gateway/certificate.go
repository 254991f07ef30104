// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateInterval is how often the files of a certificate are looked at, at
// most; they are, when somebody connects.
const certificateInterval = time.Second

// certificateFiles serves the certificate of two PEM files and reads them again
// when they change, so that a renewal needs no restart and no signal. Connections
// that are open keep the certificate that they began with.
//
// The content is compared, not the time of a change: a renewal writes two files
// one after the other, perhaps within one tick of the file system's clock, or
// moves older files into their place.
type certificateFiles struct {
	certFile, keyFile string
	interval          time.Duration
	log               *slog.Logger

	mu     sync.Mutex // guards all below
	pair   *tls.Certificate
	digest [sha256.Size]byte // of the files that pair came from
	looked time.Time
	bad    [sha256.Size]byte // of files that made no pair at the last look
	told   bool              // bad is in the log
}

func newCertificateFiles(certFile, keyFile string, log *slog.Logger) *certificateFiles {
	return &certificateFiles{certFile: certFile, keyFile: keyFile, interval: certificateInterval, log: log}
}

// get is the GetCertificate of a TLS server.
func (c *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= c.interval {
		if digest, err := c.look(); err != nil {
			c.complain(digest, err)
		}
	}
	return c.pair, nil
}

// reload looks at the files now. If they make no pair the old one stays.
func (c *certificateFiles) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.look()
	return err
}

// look takes the files' pair into use if it is another one.
func (c *certificateFiles) look() (digest [sha256.Size]byte, err error) {
	c.looked = time.Now()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return sha256.Sum256([]byte(err.Error())), err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return sha256.Sum256([]byte(err.Error())), err
	}
	digest = sha256.Sum256(append(cert[:len(cert):len(cert)], key...))
	if c.pair != nil && digest == c.digest {
		return digest, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return digest, err
	}
	if c.pair != nil {
		c.log.Info("webhook certificate changed", "serial", pair.Leaf.SerialNumber.Text(16), "not_after", pair.Leaf.NotAfter)
	}
	c.pair, c.digest = &pair, digest
	return digest, nil
}

// complain logs that the files make no pair, once, and only when they are found
// like that twice: in the middle of a renewal they are for a moment.
func (c *certificateFiles) complain(digest [sha256.Size]byte, err error) {
	if digest != c.bad {
		c.bad, c.told = digest, false
		return
	}
	if !c.told {
		c.told = true
		c.log.Error("webhook certificate not reloaded; the old one stays in use", "err", err)
	}
}
