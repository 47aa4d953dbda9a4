"""Generated from proto/wisp/v1/wisp.proto by `make proto`; never edited by hand."""
