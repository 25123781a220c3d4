package member

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		os.Exit(memberProcess())
	}
	goleak.VerifyTestMain(m)
}
