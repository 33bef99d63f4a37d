"""The steps of an answer, for a server that `tampered_server` stops at one of them."""

RECORD = "gateway_queue.keeper.sqlite:SQLiteJournal.record"
SEND_NOW = "gateway_queue.http.wire:PlainWire.send_now"
SEND = "gateway_queue.http.wire:PlainWire.send"
SEND_TLS = "gateway_queue.http.wire:TLSWire.send"
SEND_STREAM = "gateway_queue.http.http2:Http2._send_data"
