"""Live quotes, trades, bars and depth of many symbols on one WebSocket."""
