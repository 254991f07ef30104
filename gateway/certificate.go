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
	inUse  certificatePair
	looked time.Time
	bad    [sha256.Size]byte // of files that made no pair at the last look
	told   bool              // bad is in the log
}

// certificatePair is a certificate with its key.
type certificatePair struct {
	certificate *tls.Certificate
	digest      [sha256.Size]byte // of the two files
}

func newCertificateFiles(certFile, keyFile string, log *slog.Logger) *certificateFiles {
	return &certificateFiles{certFile: certFile, keyFile: keyFile, interval: certificateInterval, log: log}
}

// get is the GetCertificate of a TLS server.
func (c *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= c.interval {
		c.looked = time.Now()
		if pair, err := c.read(); err != nil {
			c.complain(pair.digest, err)
		} else {
			c.swap(pair)
		}
	}
	return c.inUse.certificate, nil
}

// read reads the files as they are now. With an error comes the digest of what
// they hold, or of why they could not be read.
func (c *certificateFiles) read() (certificatePair, error) {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return certificatePair{digest: sha256.Sum256([]byte(err.Error()))}, err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return certificatePair{digest: sha256.Sum256([]byte(err.Error()))}, err
	}
	pair := certificatePair{digest: sha256.Sum256(append(cert[:len(cert):len(cert)], key...))}
	parsed, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, err
	}
	pair.certificate = &parsed
	return pair, nil
}

// use serves a pair from now on.
func (c *certificateFiles) use(pair certificatePair) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Now()
	c.swap(pair)
}

// swap is use, under the lock.
func (c *certificateFiles) swap(pair certificatePair) {
	if pair.digest == c.inUse.digest {
		return
	}
	if c.inUse.certificate != nil {
		leaf := pair.certificate.Leaf
		c.log.Info("webhook certificate changed", "serial", leaf.SerialNumber.Text(16), "not_after", leaf.NotAfter)
	}
	c.inUse = pair
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
