package main

import (
	"os"

	"github.com/spf13/pflag"

	"aarptun/internal/config"
	"aarptun/resolver/member"
)

// defaultPath is where the configuration of a service is.
const defaultPath = "/etc/aarptun/aarptun.toml"

// asked is what a command line asks of a daemon.
type asked struct {
	path    string
	given   []config.Given
	scratch config.Config // what is given is tried on it, so that a flag can complain
}

// newAsked adds a flag for each key to f.
func newAsked(f *pflag.FlagSet) *asked {
	a := &asked{scratch: config.Default()}
	for _, k := range config.Keys() {
		flag := f.VarPF(keyFlag{k.Value(&a.scratch), k.Name, a}, k.Name, k.Short, k.Usage)
		if flag.Value.Type() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	return a
}

// load reads the file and the environment too, and sees that the files of shared
// keys are there and right. It may be called again.
func (a *asked) load() (config.Loaded, error) {
	loaded, err := config.Sources{Path: a.path, Flags: a.given, Environ: os.Environ()}.Load()
	if err != nil {
		return loaded, err
	}
	for _, p := range loaded.Config.Prefixes {
		path := loaded.Config.PSKFiles.For(p)
		if path == "" {
			continue
		}
		if _, err := member.ReadPSKs(path); err != nil {
			return loaded, loaded.About("psk-file", path, err)
		}
	}
	return loaded, nil
}

// keyFlag is the flag of a key.
type keyFlag struct {
	config.Value
	key   string
	asked *asked
}

// Set implements [pflag.Value].
func (f keyFlag) Set(text string) error {
	if err := f.Value.Set(text); err != nil {
		return err
	}
	f.asked.given = append(f.asked.given, config.Given{Key: f.key, Text: text})
	return nil
}

// Choices are the words that can be given, if there are only a few.
func (f keyFlag) Choices() []string { return choicesOf(f.Value) }

func choicesOf(v pflag.Value) []string {
	if few, ok := v.(interface{ Choices() []string }); ok {
		return few.Choices()
	}
	return nil
}
