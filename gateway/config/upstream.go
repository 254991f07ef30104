// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"net/url"
	"time"

	"github.com/contoso/gatewayd/allocation/upstream"
)

// checkUpstream checks the keys of front mode; listen is where the webhook itself
// is. It returns nil without an upstream.
func checkUpstream(p *problems, raw rawAllocation, listen string) *Upstream {
	if raw.Upstream == "" {
		for _, one := range []struct{ key, value string }{
			{"upstream_key", raw.UpstreamKey}, {"upstream_timeout", raw.UpstreamTimeout}, {"upstream_ca_file", raw.UpstreamCAFile},
		} {
			if one.value != "" {
				p.add("[allocation] "+one.key, "of no use without upstream, the URL of a cloud function")
			}
		}
		return nil
	}
	function := &Upstream{URL: raw.Upstream, Key: raw.UpstreamKey, Timeout: upstream.DefaultTimeout}
	if err := upstream.CheckURL(raw.Upstream); err != nil {
		p.add("[allocation] upstream", "%w", err)
	} else if isListener(raw.Upstream, listen) {
		p.add("[allocation] upstream", "this is the webhook itself (listen = %q), which would ask itself without end; give the URL of the cloud function", listen)
	}
	if raw.UpstreamTimeout != "" {
		timeout, err := time.ParseDuration(raw.UpstreamTimeout)
		if err != nil || timeout < upstream.MinTimeout || timeout > upstream.MaxTimeout {
			p.add("[allocation] upstream_timeout", `%q is not a time between "%v" and "%v"`, raw.UpstreamTimeout, upstream.MinTimeout, upstream.MaxTimeout)
		}
		function.Timeout = timeout
	}
	roots, err := rootCAs(raw.UpstreamCAFile)
	if err != nil {
		p.add("[allocation] upstream_ca_file", "%w", err)
	}
	function.RootCAs = roots
	return function
}

// isListener tells whether address, a good URL, leads to the listener.
func isListener(address, listen string) bool {
	target, err := url.Parse(address)
	if err != nil {
		return false
	}
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	host, listenPort, err := net.SplitHostPort(listen)
	if err != nil || port != listenPort {
		return false
	}
	if host == target.Hostname() {
		return true
	}
	ip := net.ParseIP(host)
	everywhere := host == "" || ip != nil && ip.IsUnspecified()
	return (everywhere || Loopback(listen)) && Loopback(net.JoinHostPort(target.Hostname(), port))
}
