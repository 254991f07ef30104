// SPDX-License-Identifier: Apache-2.0

// Package config turns gatewayd's one TOML file into the settings of the
// packages that do the work: raw text in, checked values out.
//
// Reading order: file.go holds the file as it is written (every key of
// design section 9 that this version knows), load.go decodes it strictly, and
// check.go turns each section into a leaf's Config, saying file, line and
// nearest known key for what it does not understand. secret.go finds the
// secrets that the file only names.
//
// Nothing here opens a port, a socket or the network: [Load] is what
// `gatewayd --check` runs.
package config
