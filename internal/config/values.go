package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Value is the value of a key or a flag, as text. An error of Set names the
// value if it is [ErrInvalid]; else it is read behind the name and the value.
type Value interface {
	// Set reads a text. Those of a list are given one by one.
	Set(text string) error
	// String is what Set has read, as it would read it again.
	String() string
	// Type stands for the value in a usage text.
	Type() string

	texts() []string // a list's are single, and ordered
	kind() kind
}

// kind is how a value is written in a file.
type kind uint8

const (
	text   kind = iota // "between quotes"
	whole              // a whole number
	number             // the same, or between quotes
	truth              // true or false
	list               // of texts
	table              // of whole numbers
)

// scalar has what most values have in common.
type scalar struct{}

func (scalar) kind() kind { return text }

// Mark is a firewall mark.
func Mark(to *uint32) Value { return mark{to} }

type mark struct{ to *uint32 }

func (mark) Type() string      { return "MARK" }
func (mark) kind() kind        { return number }
func (m mark) texts() []string { return []string{m.String()} }

func (m mark) String() string {
	if m.to == nil {
		return ""
	}
	return fmt.Sprintf("%#x", *m.to)
}

func (m mark) Set(s string) error {
	read, err := ParseMark(s)
	if err == nil {
		*m.to = read
	}
	return err
}

// LogLevel is debug, info, warn or error.
func LogLevel(to *slog.Level) Value { return logLevel{to: to} }

type logLevel struct {
	scalar
	to *slog.Level
}

func (logLevel) Type() string      { return "LEVEL" }
func (l logLevel) texts() []string { return []string{l.String()} }

// Choices are all there are.
func (logLevel) Choices() []string { return []string{"debug", "info", "warn", "error"} }

func (l logLevel) String() string {
	if l.to == nil {
		return ""
	}
	return strings.ToLower(l.to.String())
}

func (l logLevel) Set(s string) error {
	read, err := ParseLogLevel(s)
	if err == nil {
		*l.to = read
	}
	return err
}

// Word is one of a few words.
func Word[T ~string](to *T, words ...T) Value { return word[T]{to: to, words: words} }

type word[T ~string] struct {
	scalar
	to    *T
	words []T
}

func (w word[T]) texts() []string { return []string{w.String()} }

func (w word[T]) String() string {
	if w.to == nil {
		return ""
	}
	return string(*w.to)
}

func (w word[T]) Type() string { return strings.Join(w.Choices(), "|") }

// Choices are all there are.
func (w word[T]) Choices() []string {
	texts := make([]string, len(w.words))
	for i, one := range w.words {
		texts[i] = string(one)
	}
	return texts
}

func (w word[T]) Set(s string) error {
	if !slices.Contains(w.words, T(s)) {
		words := w.Choices()
		last := len(words) - 1
		return fmt.Errorf("it must be %s or %s", strings.Join(words[:last], ", "), words[last])
	}
	*w.to = T(s)
	return nil
}

// plainText is any text.
type plainText struct {
	scalar
	to *string
}

func (plainText) Type() string      { return "TEXT" }
func (t plainText) texts() []string { return []string{t.String()} }

func (t plainText) String() string {
	if t.to == nil {
		return ""
	}
	return *t.to
}

func (t plainText) Set(s string) error {
	*t.to = s
	return nil
}

// duration is a time span.
type duration struct {
	scalar
	to *time.Duration
}

func (duration) Type() string      { return "TIME" }
func (d duration) texts() []string { return []string{d.String()} }

func (d duration) String() string {
	if d.to == nil {
		return ""
	}
	return d.to.String()
}

func (d duration) Set(s string) error {
	read, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("it must be a number with its unit, such as 500ms, 30s or 5m")
	}
	*d.to = read
	return nil
}

// integer is a whole number.
type integer[T int | uint16] struct {
	to *T
}

func (integer[T]) Type() string      { return "NUMBER" }
func (integer[T]) kind() kind        { return whole }
func (i integer[T]) texts() []string { return []string{i.String()} }

func (i integer[T]) String() string {
	if i.to == nil {
		return ""
	}
	return fmt.Sprint(*i.to)
}

func (i integer[T]) Set(s string) error {
	read, err := strconv.ParseInt(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && int64(T(read)) != read:
		return errors.New("it is out of range")
	case err != nil:
		return errors.New("it must be a whole number")
	}
	*i.to = T(read)
	return nil
}

// boolean is true or false.
type boolean struct{ to *bool }

func (boolean) Type() string      { return "bool" }
func (boolean) kind() kind        { return truth }
func (b boolean) texts() []string { return []string{b.String()} }

func (b boolean) String() string {
	if b.to == nil {
		return ""
	}
	return strconv.FormatBool(*b.to)
}

func (b boolean) Set(s string) error {
	read, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("it must be true or false")
	}
	*b.to = read
	return nil
}
