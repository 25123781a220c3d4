package daemon

import (
	"os"
	"sync"
	"testing"
)

func TestOwnUseCounts(t *testing.T) {
	goroutines, files, resident := ownUse()
	if goroutines < 1 || files < 3 || resident < 1<<20 || resident > 1<<40 {
		t.Fatalf("%d goroutines, %d files, %d bytes", goroutines, files, resident)
	}
	const more = 7
	hold := make(chan struct{})
	var running sync.WaitGroup
	for range more {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		running.Go(func() { <-hold })
	}
	// Touched, so that it is in memory, and kept for as long.
	const size = 64 << 20
	memory := make([]byte, size)
	for i := range memory {
		memory[i] = 1
	}
	g, f, r := ownUse()
	// A goroutine of a test before may have ended meanwhile.
	if g <= more || g > goroutines+more || f != files+more || r < resident+size/2 {
		t.Errorf("now %d goroutines, %d files, %d bytes; before %d, %d, %d", g, f, r, goroutines, files, resident)
	}
	close(hold)
	running.Wait()
	_ = memory[size-1]
}
