// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"strings"
)

// checkDirectory checks where the device directory is: a file, which is looked for
// beside the configuration unless its path is absolute, or the name of a secret.
func checkDirectory(p *problems, raw rawAllocation) (file, url string) {
	file, url = raw.Directory, raw.DirectoryURL
	switch {
	case file != "" && url != "":
		p.add("[allocation] directory", "directory_url is given too; a gateway has one device directory, in a SQLite file or in PostgreSQL")
	case strings.Contains(file, "://"):
		p.add("[allocation] directory", "this is the path of a SQLite file; a PostgreSQL URL may hold a password, so put it into a file and name that in directory_url")
	case strings.Contains(url, "://"):
		// Not shown: there may be a password in it.
		p.add("[allocation] directory_url", "the URL itself must not stand here, since it may hold a password; put it into a file and name the credential or its absolute path")
	case file != "" && !filepath.IsAbs(file):
		file = filepath.Join(filepath.Dir(p.path), file)
	}
	return file, url
}
