module sluice.example/functions

go 1.19
