// Package sluice speaks the function protocol (sdk/PROTOCOL.md) with nothing but the standard library.
// Copy it into a program, or use it as a pattern for another language.
//
// One goroutine serves one call after the other. What a Call hands out lives until its handler
// returns, because the buffer is used again.
package sluice

import (
	"encoding/binary"
	"errors"
	"math"
)

const (
	bufferBytes        = 64 << 10
	invocationBytesMax = 64 << 20
)

// A Time is a header's time, in seconds since the epoch.
type Time int64

// A Table is a header's table or list, as AMQP 0-9-1 encodes it.
type Table []byte

// Other is a header's value of a kind that this version does not know.
type Other []byte

// A Header has a string, []byte, int64, float64, bool, Time, Table, Other or nil for a value.
type Header struct {
	Name  string
	Value any
}

// A Record is a message. Of the properties after Body those that it does not have are nil.
type Record struct {
	ID          uint64 // its sequence in its queue
	PublishedMs uint64 // since the epoch
	Attempt     uint32 // from 1
	Redelivered bool
	Body        []byte

	Exchange, RoutingKey, ContentType, ContentEncoding []byte
	MessageID, CorrelationID, ReplyTo, Type            []byte

	Headers []Header
}

// Header gives the value of the first header of that name, and whether there is one.
func (record *Record) Header(name string) (any, bool) {
	for i := range record.Headers {
		if record.Headers[i].Name == name {
			return record.Headers[i].Value, true
		}
	}
	return nil, false
}

// A Window has zeros for its times where it goes by count.
type Window struct{ StartMs, EndMs, Number uint64 }

// A Call is what came, and the answer to it as far as it is built.
type Call struct {
	Records      []Record
	State        []byte // nil where there is none yet
	StateVersion uint64
	Key          []byte  // nil without one
	Window       *Window // nil outside one
	WindowEnd    bool    // the last call of a window; it may have no records
	DeadlineNs   uint64  // as the wall clock tells the time
	TimeoutMs    uint32

	answer answer
}

var (
	errItems  = errors.New("its items do not fit it")
	errFixed  = errors.New("a fixed item is too short")
	errHeader = errors.New("a header does not fit")
	errCount  = errors.New("it has not as many records as it says")
)

// eachItem cuts data into items and shows them to visit.
func eachItem(data []byte, visit func(tag byte, content []byte) error) error {
	for len(data) > 0 {
		if len(data) < 5 {
			return errItems
		}
		tag, size := data[0], binary.LittleEndian.Uint32(data[1:])
		data = data[5:]
		if uint64(size) > uint64(len(data)) {
			return errItems
		}
		// With no room to append, so that an append to it can not write to what follows.
		if err := visit(tag, data[:size:size]); err != nil {
			return err
		}
		data = data[size:]
	}
	return nil
}

func parseHeader(content []byte) (Header, error) {
	if len(content) < 3 {
		return Header{}, errHeader
	}
	kind, nameSize := content[0], int(binary.LittleEndian.Uint16(content[1:]))
	content = content[3:]
	if nameSize > len(content) {
		return Header{}, errHeader
	}
	header, value := Header{Name: string(content[:nameSize])}, content[nameSize:]
	valueMin := map[byte]int{3: 8, 4: 8, 5: 1, 6: 8}[kind]
	if len(value) < valueMin {
		return Header{}, errHeader
	}
	switch kind {
	case 0:
	case 1:
		header.Value = string(value)
	case 2:
		header.Value = value
	case 3:
		header.Value = int64(binary.LittleEndian.Uint64(value))
	case 4:
		header.Value = math.Float64frombits(binary.LittleEndian.Uint64(value))
	case 5:
		header.Value = value[0] != 0
	case 6:
		header.Value = Time(binary.LittleEndian.Uint64(value))
	case 7:
		header.Value = Table(value)
	default:
		header.Value = Other(value)
	}
	return header, nil
}

func parseRecord(content []byte) (Record, error) {
	var record Record
	if len(content) < 24 {
		return record, errors.New("a record is too short")
	}
	record.ID = binary.LittleEndian.Uint64(content)
	record.PublishedMs = binary.LittleEndian.Uint64(content[8:])
	record.Attempt = binary.LittleEndian.Uint32(content[16:])
	record.Redelivered = binary.LittleEndian.Uint32(content[20:])&1 != 0
	properties := [...]*[]byte{&record.Body, &record.Exchange, &record.RoutingKey, &record.ContentType,
		&record.ContentEncoding, &record.MessageID, &record.CorrelationID, &record.ReplyTo, &record.Type}
	err := eachItem(content[24:], func(tag byte, content []byte) error {
		switch {
		case tag >= 16 && tag < 25:
			*properties[tag-16] = content
		case tag == 25:
			header, err := parseHeader(content)
			if err != nil {
				return err
			}
			record.Headers = append(record.Headers, header)
		}
		return nil
	})
	return record, err
}

// parse reads what follows the length field of an invocation.
func parse(frame []byte) (*Call, error) {
	if len(frame) < 20 {
		return nil, errors.New("it is too short")
	}
	if binary.LittleEndian.Uint16(frame) != 1 {
		return nil, errors.New("its version is not known here")
	}
	call := &Call{
		WindowEnd:  binary.LittleEndian.Uint16(frame[2:])&1 != 0,
		DeadlineNs: binary.LittleEndian.Uint64(frame[4:]),
		TimeoutMs:  binary.LittleEndian.Uint32(frame[12:]),
	}
	count := binary.LittleEndian.Uint32(frame[16:])
	err := eachItem(frame[20:], func(tag byte, content []byte) error {
		switch tag {
		case 1:
			call.State = content
		case 2:
			if len(content) < 8 {
				return errFixed
			}
			call.StateVersion = binary.LittleEndian.Uint64(content)
		case 3:
			call.Key = content
		case 4:
			if len(content) < 24 {
				return errFixed
			}
			call.Window = &Window{binary.LittleEndian.Uint64(content),
				binary.LittleEndian.Uint64(content[8:]), binary.LittleEndian.Uint64(content[16:])}
		case 5:
			record, err := parseRecord(content)
			if err != nil {
				return err
			}
			call.Records = append(call.Records, record)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if uint64(len(call.Records)) != uint64(count) {
		return nil, errCount
	}
	if count == 0 && !call.WindowEnd {
		return nil, errors.New("it has no records")
	}
	return call, nil
}
