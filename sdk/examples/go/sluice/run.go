package sluice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// A Handler works on one call. An error, or a panic, fails it.
type Handler func(call *Call) error

// Run serves calls until their stream ends, and ends the program: with status 0, or 1 after saying on
// stderr what was wrong. Where SLUICE_FD is not set, stdin is the one record of one call.
func Run(handle Handler) {
	err := errors.New("not run")
	if text, ok := os.LookupEnv("SLUICE_FD"); ok {
		err = serve(text, handle)
	} else {
		err = tryOut(handle)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sluice:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(descriptor string, handle Handler) error {
	number, err := strconv.ParseUint(descriptor, 10, 20)
	if err != nil {
		return fmt.Errorf("SLUICE_FD is not the number of a descriptor: %w", err)
	}
	stream := os.NewFile(uintptr(number), "sluice")
	// One read takes a frame that fits; what follows it in the buffer begins the next one.
	buffer, used := make([]byte, bufferBytes), 0
	for {
		size := 4
		for used < size {
			got, err := stream.Read(buffer[used:])
			used += got
			if err == io.EOF && used == 0 {
				return nil
			}
			if err != nil && used < size {
				return fmt.Errorf("the invocation can not be read: %w", err)
			}
			if used < 4 {
				continue
			}
			length := binary.LittleEndian.Uint32(buffer)
			if length > invocationBytesMax {
				return errors.New("the invocation breaks the protocol: it is longer than 64 MiB")
			}
			if size = 4 + int(length); size > len(buffer) {
				buffer = append(make([]byte, 0, size), buffer[:used]...)[:size]
			}
		}
		size = 4 + int(binary.LittleEndian.Uint32(buffer))
		call, err := parse(buffer[4:size])
		if err != nil {
			return fmt.Errorf("the invocation breaks the protocol: %w", err)
		}
		work(call, handle)
		if _, err := stream.Write(call.answer.frame()); err != nil {
			return fmt.Errorf("the answer can not be written: %w", err)
		}
		used = copy(buffer, buffer[size:used])
	}
}

func work(call *Call, handle Handler) {
	defer func() {
		if what := recover(); what != nil {
			call.fail(fmt.Sprint(what))
		}
	}()
	if err := handle(call); err != nil {
		call.fail(err.Error())
	}
}

// tryOut runs one call outside Sluice and shows its answer.
func tryOut(handle Handler) error {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	call := &Call{DeadlineNs: 1<<64 - 1, TimeoutMs: 1<<32 - 1,
		Records: []Record{{ID: 1, Attempt: 1, PublishedMs: uint64(time.Now().UnixMilli()), Body: body}}}
	path := os.Getenv("SLUICE_STATE")
	if path != "" {
		if call.State, err = os.ReadFile(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	work(call, handle)
	failed := false
	err = eachItem(call.answer.frame()[8:], func(tag byte, content []byte) error {
		switch tag {
		case 32:
			failed = true
			fmt.Fprintf(os.Stderr, "failed: %s\n", content)
		case 33:
			failed = true
			fmt.Fprintf(os.Stderr, "failed: %s\n", content[4:])
		case 35:
			os.Stdout.Write(content[4:])
		case 36:
			showOutput(content)
		case 37:
			level := [...]string{"debug", "info", "warning", "error"}[content[0]&3]
			fmt.Fprintf(os.Stderr, "%s: %s\n", level, content[1:])
		}
		return nil
	})
	if err != nil || failed {
		if failed {
			os.Exit(1)
		}
		return err
	}
	return keepState(&call.answer, path)
}

func showOutput(content []byte) {
	var items [3][]byte
	eachItem(content, func(tag byte, content []byte) error {
		if tag >= 16 && tag < 19 {
			items[tag-16] = content
		}
		return nil
	})
	fmt.Fprintf(os.Stderr, "output %s/%s: %s\n", items[1], items[2], items[0])
}

func keepState(answer *answer, path string) error {
	switch {
	case answer.hasState && path != "":
		return os.WriteFile(path, answer.state, 0o666)
	case answer.hasState:
		fmt.Fprintf(os.Stderr, "state: %s\n", answer.state)
	case answer.dropState && path != "":
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	case answer.dropState:
		fmt.Fprintln(os.Stderr, "state dropped")
	}
	return nil
}
