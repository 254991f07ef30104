// SPDX-License-Identifier: Apache-2.0

package netdial

import (
	"errors"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// errEnvironment says nothing of the value, which may hold a password.
var errEnvironment = errors.New("HTTPS_PROXY is neither http://host:port nor https://host:port")

// FromEnvironment reads HTTPS_PROXY (or https_proxy) and NO_PROXY (or no_proxy) now and returns which proxy they name for
// an address. HTTP_PROXY has no say, because nothing here is plain HTTP. A value that names no proxy is an error for
// each address that is not exempt: silently doing without would go around a site's rules.
func FromEnvironment() func(*url.URL) (*url.URL, error) {
	environment := httpproxy.FromEnvironment()
	if environment.HTTPSProxy == "" {
		return func(*url.URL) (*url.URL, error) { return nil, nil }
	}
	proxy, err := parse(environment.HTTPSProxy)
	// The library knows who is exempt, but forgives a proxy that it cannot read.
	exempt := (&httpproxy.Config{HTTPSProxy: "http://proxy.invalid", NoProxy: environment.NoProxy}).ProxyFunc()
	return func(to *url.URL) (*url.URL, error) {
		if wanted, _ := exempt(to); wanted == nil {
			return nil, nil
		}
		return proxy, err
	}
}

// parse takes a URL, or host:port for a proxy that is reached by http.
func parse(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	proxy, err := url.Parse(text)
	if err != nil || !usable(proxy) {
		return nil, errEnvironment
	}
	return proxy, nil
}

func usable(proxy *url.URL) bool {
	return (proxy.Scheme == "http" || proxy.Scheme == "https") && proxy.Hostname() != ""
}
