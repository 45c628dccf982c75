module sluice.example/conformance

go 1.19

require sluice.example/functions v0.0.0

replace sluice.example/functions => ../../../../sdk/examples/go
