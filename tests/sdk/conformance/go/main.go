// The conformance program in Go; describe.md tells what it does.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"sluice.example/functions/sluice"
)

func blob(data []byte) string {
	if data == nil {
		return "-"
	}
	if len(data) > 64 {
		return fmt.Sprintf("%d#%08x", len(data), crc32.ChecksumIEEE(data))
	}
	return fmt.Sprintf("x%x", data)
}

func describeValue(value any) string {
	switch value := value.(type) {
	case nil:
		return "none"
	case string:
		return "text " + blob([]byte(value))
	case []byte:
		return "bytes " + blob(value)
	case int64:
		return fmt.Sprintf("integer %d", value)
	case float64:
		return fmt.Sprintf("float %016x", math.Float64bits(value))
	case bool:
		if value {
			return "boolean 1"
		}
		return "boolean 0"
	case sluice.Time:
		return fmt.Sprintf("time %d", value)
	case sluice.Table:
		return "table " + blob(value)
	case sluice.Other:
		return "other " + blob(value)
	}
	return "?"
}

func truth(value bool) int {
	if value {
		return 1
	}
	return 0
}

func present(data []byte) []byte { return append([]byte{}, data...) }

func describe(call *sluice.Call) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "call %d %d %d %d\nstate %s\nstate_version %d\nkey %s\n", truth(call.WindowEnd),
		call.DeadlineNs, call.TimeoutMs, len(call.Records), blob(call.State), call.StateVersion,
		blob(call.Key))
	if call.Window != nil {
		fmt.Fprintf(&out, "window %d %d %d\n", call.Window.StartMs, call.Window.EndMs, call.Window.Number)
	} else {
		fmt.Fprintf(&out, "window -\n")
	}
	for _, record := range call.Records {
		fmt.Fprintf(&out, "record %d %d %d %d\nbody %s\nexchange %s\nrouting_key %s\n", record.ID,
			record.PublishedMs, record.Attempt, truth(record.Redelivered), blob(present(record.Body)),
			blob(present(record.Exchange)), blob(present(record.RoutingKey)))
		fmt.Fprintf(&out, "content_type %s\ncontent_encoding %s\nmessage_id %s\ncorrelation_id %s\n",
			blob(record.ContentType), blob(record.ContentEncoding), blob(record.MessageID),
			blob(record.CorrelationID))
		fmt.Fprintf(&out, "reply_to %s\ntype %s\n", blob(record.ReplyTo), blob(record.Type))
		for _, header := range record.Headers {
			fmt.Fprintf(&out, "header %s %s\n", blob([]byte(header.Name)), describeValue(header.Value))
		}
	}
	return out.Bytes()
}

func integerOf(record *sluice.Record, name string) int64 {
	value, _ := record.Header(name)
	number, _ := value.(int64)
	return number
}

func publish(call *sluice.Call, record *sluice.Record) error {
	return call.Publish(sluice.Output{
		Exchange: string(record.Exchange), RoutingKey: string(record.RoutingKey), Body: record.Body,
		ContentType: string(record.ContentType), ContentEncoding: string(record.ContentEncoding),
		MessageID: string(record.MessageID), CorrelationID: string(record.CorrelationID),
		ReplyTo: string(record.ReplyTo), Type: string(record.Type),
		Headers: record.Headers, DelayMs: uint64(integerOf(record, "delay")),
	})
}

func act(call *sluice.Call, index int, what string) error {
	record := &call.Records[index]
	switch what {
	case "throw", "fail-call":
		return errors.New(string(record.Body))
	case "fail":
		call.FailRecord(index, string(record.Body))
	case "result":
		call.RecordResult(index, record.Body)
	case "state":
		call.SetState(record.Body)
	case "drop":
		call.DropState()
	case "output":
		return publish(call, record)
	case "log":
		call.Log(byte(integerOf(record, "level")), "%s", record.Body)
	case "big":
		call.RecordResult(index, bytes.Repeat([]byte("x"), int(integerOf(record, "size"))))
	case "misuse":
		call.RecordResult(len(call.Records), []byte("x"))
	case "print":
		fmt.Printf("%s", record.Body)
	}
	return nil
}

func main() {
	sluice.Run(func(call *sluice.Call) error {
		for i := range call.Records {
			value, _ := call.Records[i].Header("do")
			if what, ok := value.(string); ok {
				if err := act(call, i, what); err != nil {
					return err
				}
			}
		}
		call.Result(describe(call))
		return nil
	})
}
