// Goroutines: waits of Go's runtime or of the kernel, two busy so that the runtime preempts them (SIGURG), one writing
// numbered lines. goroutines LINES_FILE WAIT_MS timers|calls|quiet. "timers": time.Sleep and its like and os.File, for
// which the runtime makes an epoll instance; "calls": the same by plain system calls, which need none as long as the
// collector does not run (GOGC=off), since that sets timers too; "quiet": timers, none busy, no lines. Prints "ready",
// then "NAME ASKED_NS TOOK_NS" for each wait that has ended, by Go's monotonic clock, then "done". Knows nothing of
// livecr.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type kernelFile int

func (file kernelFile) Write(text []byte) (int, error) { return syscall.Write(int(file), text) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The runtime's own signals may end a nanosleep early: go on with what the kernel says is left.
func kernelSleep(asked time.Duration) {
	left := syscall.NsecToTimespec(int64(asked))
	for syscall.Nanosleep(&left, &left) == syscall.EINTR {
	}
}

func selectAfter(asked time.Duration) {
	select {
	case <-make(chan int):
		panic("something came from a channel that nobody writes to")
	case <-time.After(asked):
	}
}

func contextDone(asked time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), asked)
	defer cancel()
	<-ctx.Done()
}

func ticker(asked time.Duration) {
	one := time.NewTicker(asked)
	defer one.Stop()
	<-one.C
}

func busy(over *int32) {
	last := time.Now()
	for atomic.LoadInt32(over) == 0 {
		now := time.Now()
		if now.Before(last) {
			panic("the clock went back")
		}
		last = now
	}
}

func writeLines(file io.Writer, pause func(time.Duration), over *int32) {
	for number := 1; atomic.LoadInt32(over) == 0; number++ {
		fmt.Fprintln(file, number)
		if number%7 == 0 {
			pause(500 * time.Microsecond)
		}
	}
}

func main() {
	milliseconds, err := strconv.Atoi(os.Args[2])
	must(err)
	asked := time.Duration(milliseconds) * time.Millisecond
	waits := []func(time.Duration){time.Sleep, selectAfter, contextDone, ticker}
	names := []string{"sleep", "select", "context", "ticker"}
	var file io.Writer
	if os.Args[3] == "calls" {
		waits, names = []func(time.Duration){kernelSleep}, []string{"nanosleep"}
		fd, err := syscall.Open(os.Args[1], syscall.O_CREAT|syscall.O_WRONLY|syscall.O_TRUNC, 0o644)
		must(err)
		file = kernelFile(fd)
	} else if os.Args[3] == "timers" {
		file, err = os.Create(os.Args[1])
		must(err)
	}
	var over int32
	var timed, others sync.WaitGroup
	timed.Add(8)
	for i := 0; i < 8; i++ {
		go func(i int) {
			defer timed.Done()
			began := time.Now()
			waits[i%len(waits)](asked)
			took := time.Since(began)
			fmt.Println(fmt.Sprintf("%s-%d", names[i%len(names)], i), int64(asked), int64(took))
		}(i)
	}
	fed := make(chan int)
	others.Add(1)
	go func() { defer others.Done(); fmt.Println("fed", <-fed) }()
	if os.Args[3] != "quiet" {
		others.Add(3)
		for i := 0; i < 2; i++ {
			go func() { defer others.Done(); busy(&over) }()
		}
		go func() { defer others.Done(); writeLines(file, waits[0], &over) }()
	}
	fmt.Println("ready")
	timed.Wait()
	fed <- 42
	atomic.StoreInt32(&over, 1)
	others.Wait()
	fmt.Println("done")
}
