// SPDX-License-Identifier: Apache-2.0

package config

// The raw structs mirror the file: one field a key, no rules. A pointer tells
// an absent section or number from an empty one.

type rawFile struct {
	Site       string         `toml:"site"`
	StateDir   string         `toml:"state_dir"`
	Profiles   []string       `toml:"profiles"`
	DPS        *rawDPS        `toml:"dps"`
	Hub        rawHub         `toml:"hub"`
	Buses      []rawBus       `toml:"bus"`
	Allocation *rawAllocation `toml:"allocation"`
	Metrics    rawMetrics     `toml:"metrics"`
}

type rawDPS struct {
	Endpoint           string   `toml:"endpoint"`
	IDScope            string   `toml:"id_scope"`
	Transport          string   `toml:"transport"`
	GroupKey           string   `toml:"group_key"`
	DerivedKeys        string   `toml:"derived_keys"`
	Identity           string   `toml:"derived_keys_identity"`
	CAFile             string   `toml:"ca_file"`
	RegistersPerMinute *float64 `toml:"registers_per_minute"`
	PollsPerSecond     *float64 `toml:"polls_per_second"`
	Payload            *string  `toml:"payload"`
}

type rawHub struct {
	Mode    string            `toml:"mode"`
	Resolve map[string]string `toml:"resolve"`
}

type rawBus struct {
	Name           string   `toml:"name"`
	Place          string   `toml:"place"`
	Port           string   `toml:"port"`
	Driver         string   `toml:"driver"`
	Profile        string   `toml:"profile"`
	Baud           any      `toml:"baud"` // a number or "auto"
	Parity         string   `toml:"parity"`
	RS485          bool     `toml:"rs485"`
	Units          string   `toml:"units"`
	RegistrationID string   `toml:"registration_id"`
	Allow          []string `toml:"allow"`
	Record         string   `toml:"record"`
	Pins           []rawPin `toml:"pin"`
}

type rawPin struct {
	Unit           int    `toml:"unit"`
	RegistrationID string `toml:"registration_id"`
	Vendor         string `toml:"vendor"`
	Product        string `toml:"product"`
}

type rawAllocation struct {
	Listen       string `toml:"listen"`
	FunctionKeys string `toml:"function_keys"`
	Policy       string `toml:"policy"`
	Shadow       string `toml:"shadow"`
	TLSCert      string `toml:"tls_cert"`
	TLSKey       string `toml:"tls_key"`
	Directory    string `toml:"directory"`
	DirectoryURL string `toml:"directory_url"`

	Upstream                   string   `toml:"upstream"`
	UpstreamKey                string   `toml:"upstream_key"`
	UpstreamTimeout            string   `toml:"upstream_timeout"`
	UpstreamCAFile             string   `toml:"upstream_ca_file"`
	MaxConnections             *int     `toml:"max_connections"`
	RequestsPerSecond          *float64 `toml:"requests_per_second"`
	RequestsPerSecondPerCaller *float64 `toml:"requests_per_second_per_caller"`

	DecisionLog     *string `toml:"decision_log"`
	DecisionLogSize *int64  `toml:"decision_log_size"`
}

type rawMetrics struct {
	Listen string `toml:"listen"`
	Public bool   `toml:"public"`
}
