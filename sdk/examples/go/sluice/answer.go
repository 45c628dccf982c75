package sluice

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// The levels of log lines.
const (
	Debug byte = iota
	Info
	Warning
	Error
)

// An Output is a message to publish. What is empty or 0 is left out.
type Output struct {
	Exchange, RoutingKey string
	Body                 []byte

	ContentType, ContentEncoding, MessageID string
	CorrelationID, ReplyTo, Type            string

	Headers []Header
	DelayMs uint64
}

// answer keeps each kind of item apart, because they are sent in the order of their tags.
type answer struct {
	failure   *string
	failed    []byte
	state     []byte
	hasState  bool
	dropState bool
	results   []byte
	outputs   []byte
	logs      []byte
}

func appendItem(to []byte, tag byte, content ...[]byte) []byte {
	size := 0
	for _, part := range content {
		size += len(part)
	}
	to = append(to, tag)
	to = binary.LittleEndian.AppendUint32(to, uint32(size))
	for _, part := range content {
		to = append(to, part...)
	}
	return to
}

func u32(value uint32) []byte { return binary.LittleEndian.AppendUint32(nil, value) }
func u64(value uint64) []byte { return binary.LittleEndian.AppendUint64(nil, value) }

// Text that is not UTF-8 would make the answer a bad one.
func clean(text string) string { return strings.ToValidUTF8(text, "?") }

// Result sets the result of the call as a whole.
func (call *Call) Result(data []byte) {
	call.answer.results = appendItem(call.answer.results, 35, u32(math.MaxUint32), data)
}

// RecordResult sets the result of one record.
func (call *Call) RecordResult(record int, data []byte) {
	call.mustExist(record)
	call.answer.results = appendItem(call.answer.results, 35, u32(uint32(record)), data)
}

// FailRecord says that a record failed, and why. Once for a record.
func (call *Call) FailRecord(record int, why string) {
	call.mustExist(record)
	call.answer.failed = appendItem(call.answer.failed, 33, u32(uint32(record)), []byte(clean(why)))
}

// SetState sets the state for the next call with this key.
func (call *Call) SetState(state []byte) {
	call.answer.state = append(call.answer.state[:0], state...)
	call.answer.hasState, call.answer.dropState = true, false
}

// DropState leaves no state for the next call.
func (call *Call) DropState() { call.answer.hasState, call.answer.dropState = false, true }

// Log adds a line to the function's log.
func (call *Call) Log(level byte, format string, values ...any) {
	line := clean(fmt.Sprintf(format, values...))
	call.answer.logs = appendItem(call.answer.logs, 37, []byte{level}, []byte(line))
}

// Publish adds a message to publish. It fails where text is not UTF-8, a name is longer than 255
// bytes, or a header's value has another type than Header names.
func (call *Call) Publish(output Output) error {
	content := appendItem(nil, 16, output.Body)
	texts := [...]string{output.Exchange, output.RoutingKey, output.ContentType, output.ContentEncoding,
		output.MessageID, output.CorrelationID, output.ReplyTo, output.Type}
	for i, text := range texts {
		if i < 2 && len(text) > 255 || clean(text) != text {
			return fmt.Errorf("an output's property %q is too long or not UTF-8", text)
		}
		if text != "" {
			content = appendItem(content, byte(17+i), []byte(text))
		}
	}
	for _, header := range output.Headers {
		kind, value, err := encodeValue(header.Value)
		if err == nil && (len(header.Name) > 255 || clean(header.Name) != header.Name) {
			err = fmt.Errorf("its name is too long or not UTF-8")
		}
		if err != nil {
			return fmt.Errorf("the header %q: %w", header.Name, err)
		}
		name := binary.LittleEndian.AppendUint16([]byte{kind}, uint16(len(header.Name)))
		content = appendItem(content, 25, name, []byte(header.Name), value)
	}
	if output.DelayMs > 0 {
		content = appendItem(content, 38, u64(output.DelayMs))
	}
	call.answer.outputs = appendItem(call.answer.outputs, 36, content)
	return nil
}

func encodeValue(value any) (kind byte, content []byte, err error) {
	switch value := value.(type) {
	case nil:
		return 0, nil, nil
	case string:
		if clean(value) != value {
			return 0, nil, fmt.Errorf("its text is not UTF-8")
		}
		return 1, []byte(value), nil
	case []byte:
		return 2, value, nil
	case int64:
		return 3, u64(uint64(value)), nil
	case float64:
		return 4, u64(math.Float64bits(value)), nil
	case bool:
		if value {
			return 5, []byte{1}, nil
		}
		return 5, []byte{0}, nil
	case Time:
		return 6, u64(uint64(value)), nil
	case Table:
		return 7, value, nil
	}
	return 0, nil, fmt.Errorf("it can not be a %T", value)
}

func (call *Call) fail(why string) { call.answer.failure = &why }

func (call *Call) mustExist(record int) {
	if record < 0 || record >= len(call.Records) {
		panic(fmt.Sprintf("the call has no record %d", record))
	}
}

// frame gives the answer frame.
func (answer *answer) frame() []byte {
	frame := []byte{0, 0, 0, 0, 1, 0, 0, 0}
	if answer.failure != nil {
		frame = appendItem(frame, 32, []byte(clean(*answer.failure)))
	} else {
		frame = append(frame, answer.failed...)
		if answer.hasState {
			frame = appendItem(frame, 34, answer.state)
		}
		if answer.dropState {
			frame[6] = 1
		}
		frame = append(frame, answer.results...)
		frame = append(frame, answer.outputs...)
	}
	frame = append(frame, answer.logs...)
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}
