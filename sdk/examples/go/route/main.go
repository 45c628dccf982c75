// Route sends each event of a batch on by what it is: events are JSON objects, and one of type
// "payment" goes to the exchange "events" with the routing key "payment.REGION". Alarms are repeated
// after a minute to whoever is on duty. An event that is not understood fails alone.
package main

import (
	"encoding/json"
	"fmt"

	"sluice.example/functions/sluice"
)

type event struct {
	Type   string `json:"type"`
	Region string `json:"region"`
	Alarm  bool   `json:"alarm"`
}

func route(call *sluice.Call, record *sluice.Record) error {
	var found event
	if err := json.Unmarshal(record.Body, &found); err != nil {
		return err
	}
	if found.Type == "" || found.Region == "" {
		return fmt.Errorf("an event needs a type and a region")
	}
	output := sluice.Output{
		Exchange:      "events",
		RoutingKey:    found.Type + "." + found.Region,
		Body:          record.Body,
		ContentType:   "application/json",
		CorrelationID: string(record.CorrelationID),
		Headers:       append(record.Headers, sluice.Header{Name: "attempt", Value: int64(record.Attempt)}),
	}
	if err := call.Publish(output); err != nil {
		return err
	}
	if !found.Alarm {
		return nil
	}
	output.RoutingKey, output.DelayMs = "on-duty", 60_000
	return call.Publish(output)
}

func main() {
	sluice.Run(func(call *sluice.Call) error {
		for i := range call.Records {
			if err := route(call, &call.Records[i]); err != nil {
				call.FailRecord(i, err.Error())
				call.Log(sluice.Warning, "event %d: %v", call.Records[i].ID, err)
			}
		}
		return nil
	})
}
