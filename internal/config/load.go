package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Given is one text given for the key of that name on the command line.
type Given struct{ Key, Text string }

// Sources is where a configuration comes from. What stands on the command line
// counts before the environment, that before the file, and that before the
// defaults, each key by itself: of a list, too, only one source counts.
type Sources struct {
	Path  string // of the file; "" is the variable AARPTUN_CONFIG, or none
	Flags []Given
	// Environ has the environment as [os.Environ] returns it. Of lists the
	// texts have commas between them. An empty variable counts for nothing.
	Environ []string
}

// Loaded is a configuration, and where each part of it comes from.
type Loaded struct {
	Config   Config
	Path     string   // of the file, or ""
	Warnings []string // what was given and is nobody's

	settings map[string][]setting // what counts, by the name of the key
}

// Load reads all sources. The error names the place of what is wrong: the flag,
// the variable, or file, line and column. It is an [ErrInvalid], or an [ErrFile]
// if it is about the file, and also what stood in the way of reading it.
func (s Sources) Load() (Loaded, error) {
	variables, environ := s.variables()
	l := Loaded{Config: Default(), Path: cmp.Or(s.Path, variables[pathVariable]), Warnings: unknownVariables(variables)}
	var file []setting
	if l.Path != "" {
		var err error
		if file, err = readFile(l.Path); err != nil {
			return l, err
		}
	}
	return l, l.layer(file, environ, s.flags())
}

// layer makes the configuration of settings, of which the later count before
// the earlier.
func (l *Loaded) layer(sources ...[]setting) error {
	l.settings = map[string][]setting{}
	for _, settings := range sources {
		l.take(settings)
	}
	for _, k := range keys {
		if err := l.apply(k); err != nil {
			return err
		}
	}
	if err := l.Config.Validate(); err != nil {
		return l.placed(err)
	}
	return nil
}

// take lets settings count before what has been taken for the same keys.
func (l *Loaded) take(settings []setting) {
	byKey := map[string][]setting{}
	for _, s := range settings {
		byKey[s.key.Name] = append(byKey[s.key.Name], s)
	}
	maps.Copy(l.settings, byKey)
}

// apply reads what counts for a key. What a file says of one prefix counts as
// long as that is carried, whoever says so.
func (l *Loaded) apply(k Key) error {
	value := k.Value(&l.Config)
	l.settings[k.Name] = slices.DeleteFunc(l.settings[k.Name], func(s setting) bool {
		return s.prefix != AllPrefixes && !slices.Contains(l.Config.Prefixes, s.prefix)
	})
	for _, s := range l.settings[k.Name] {
		var err error
		if own, ok := value.(ofPrefix); ok && s.prefix != AllPrefixes {
			err = own.setFor(s.prefix, s.text)
		} else {
			err = value.Set(s.text)
		}
		if err != nil {
			return s.wrong(err)
		}
	}
	return nil
}

// wrong puts a value's own complaint behind its name and its place.
func (s setting) wrong(cause error) error {
	if !errors.Is(cause, ErrInvalid) {
		cause = invalid("%s %q: %v", s.key.Name, s.text, cause)
	}
	return placedError{s.place, cause, s.file}
}

// placed puts an error of Validate behind the place of the value that it is
// about, if that was given.
func (l *Loaded) placed(err error) error {
	var about invalidError
	if !errors.As(err, &about) {
		return err
	}
	if s, ok := l.find(about.key, about.part); ok {
		return placedError{s.place, err, s.file}
	}
	return err
}

// find returns the setting of a key that has part in it, or else any.
func (l *Loaded) find(key, part string) (setting, bool) {
	settings := l.settings[key]
	if len(settings) == 0 {
		return setting{}, false
	}
	i := slices.IndexFunc(settings, func(s setting) bool {
		return strings.Contains(s.text, part) || s.prefix != AllPrefixes && s.prefix.String() == part
	})
	return settings[max(i, 0)], true
}

// About returns an error with the place where the key's value, or the part of
// it that is named, was given: for what can only be found out elsewhere.
func (l *Loaded) About(key, part string, err error) error {
	if s, ok := l.find(key, part); ok {
		return fmt.Errorf("%s: %w", s.place, err)
	}
	return err
}

// From says where the value of a key comes from: the flag, the variable, file
// with line and column (several if they are several), or "default".
func (l *Loaded) From(k Key) string {
	var places []string
	for _, s := range l.settings[k.Name] {
		if !slices.Contains(places, s.place) {
			places = append(places, s.place)
		}
	}
	return cmp.Or(strings.Join(places, ", "), "default")
}

func (s Sources) flags() (settings []setting) {
	for _, g := range s.Flags {
		if k, ok := keyNamed(g.Key); ok {
			settings = append(settings, setting{key: k, text: g.Text, place: "--" + k.Name})
		}
	}
	return settings
}

// variables returns those variables that are ours by their name, and what they
// set.
func (s Sources) variables() (variables map[string]string, settings []setting) {
	variables = map[string]string{}
	for _, entry := range s.Environ {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefixed) && value != "" {
			variables[name] = value
		}
	}
	for _, k := range keys {
		given, ok := variables[k.Variable()]
		if !ok {
			continue
		}
		texts := []string{given}
		if kind := k.Value(new(Config)).kind(); kind == list || kind == table {
			texts = strings.Split(given, ",")
		}
		for _, text := range texts {
			settings = append(settings, setting{key: k, text: strings.TrimSpace(text), place: k.Variable()})
		}
	}
	return variables, settings
}

// unknownVariables warns of variables that look like ours and are not. It is no
// error: Kubernetes makes such variables of a service's name.
func unknownVariables(variables map[string]string) (warnings []string) {
	known := []string{pathVariable}
	for _, k := range keys {
		known = append(known, k.Variable())
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if slices.Contains(known, name) {
			continue
		}
		warning := fmt.Sprintf("the variable %s counts for nothing", name)
		if near := Nearest(name, known); near != "" {
			warning += ": did you mean " + near + "?"
		}
		warnings = append(warnings, warning)
	}
	return warnings
}
