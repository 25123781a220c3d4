package config

import _ "embed"

// Reference is a file with every key, its unit, range and default, in comments:
// as it is it asks for nothing.
//
//go:embed reference.toml
var Reference string
