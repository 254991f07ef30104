// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"path/filepath"
	"reflect"

	"github.com/contoso/gatewayd/serialbus"
)

// maxProfileSize bounds a profile file; the built-in ones have two kilobytes.
const maxProfileSize = 256 << 10

// loadProfiles reads the site's own profiles. A path that is not absolute begins
// at the folder of the configuration file. Every profile comes back that has no
// fault of its own.
func loadProfiles(p *problems, file string, paths []string) []serialbus.Profile {
	var profiles []serialbus.Profile
	from := map[string]string{}
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		profile, err := loadProfile(path)
		if err != nil {
			p.add("profiles", "%w", err)
			continue
		}
		if other, taken := from[profile.Name]; taken {
			p.add("profiles", "%s and %s both have the name %q", other, path, profile.Name)
			continue
		}
		from[profile.Name] = path
		profiles = append(profiles, profile)
	}
	return profiles
}

// loadProfile reads one profile file; an error names the file.
func loadProfile(path string) (serialbus.Profile, error) {
	text, err := readBounded(path, maxProfileSize)
	if err != nil {
		return serialbus.Profile{}, err
	}
	profile, err := serialbus.ParseProfile(text)
	if err != nil {
		return serialbus.Profile{}, located(path, err, reflect.TypeFor[serialbus.Profile]())
	}
	return profile, nil
}

// checkLine adds the serial side's faults, and the nearest name of a profile
// where that is what is wrong.
func checkLine(p *problems, where string, line serialbus.Config) {
	err := line.Validate()
	if err == nil {
		return
	}
	known := serialbus.Profiles()
	for _, own := range line.Profiles {
		known = append(known, own.Name)
	}
	if near := nearest(line.Profile, known); near != "" && near != line.Profile {
		err = fmt.Errorf("%w (did you mean profile %q?)", err, near)
	}
	p.add(where, "%w", err)
}
