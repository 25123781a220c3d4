package config

import (
	"errors"
	"fmt"
)

// ErrInvalid is what every error about a wrong value is, by [errors.Is].
var ErrInvalid = errors.New("invalid configuration")

// ErrFile is what every error about a configuration file is, by [errors.Is];
// those about what stands in it are [ErrInvalid] too.
var ErrFile = errors.New("bad configuration file")

// invalidError says what is wrong in one sentence, without a preamble: it is
// read behind the name of the flag or the line of the file.
type invalidError struct {
	text string
	key  string // whose value it is; "" where that is known to the caller
	part string // what is wrong of several, as it may stand in the text given
}

func (e invalidError) Error() string      { return e.text }
func (invalidError) Is(target error) bool { return target == ErrInvalid }

// invalid is an error about a text that its caller knows the key of.
func invalid(format string, args ...any) error {
	return invalidError{text: fmt.Sprintf(format, args...)}
}

// wrong is an error about the value of a key, or about a part of it.
func wrong(key, part, format string, args ...any) error {
	return invalidError{text: fmt.Sprintf(format, args...), key: key, part: part}
}

// placedError is an error behind the place where its cause was written.
type placedError struct {
	place string
	cause error
	file  bool // the place is in a file
}

func (e placedError) Error() string { return e.place + ": " + e.cause.Error() }
func (e placedError) Unwrap() error { return e.cause }
func (e placedError) Is(target error) bool {
	return target == ErrInvalid || e.file && target == ErrFile
}
