-- Settle: replaces holds by what the calls cost; never refused for money.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms · heading · placing · one item per hold: organization I2 · basis B · flags I4 · cost I8 ·
--       tokens i8 (-1 unknown) · retention_ms I8 · reserved_ms I8 (0: any) · the end (JSON for the row)
-- RETURNS  the time, then per hold: found B · state B · basis B · repeated B · flags I4 · held I8 · cost i8
-- WRITES  records, counters, overages, due index, one row per hold that changed
-- COST  O(holds × counters)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items = {}
for i = 1, batch.items do
  local org, basis, flags, cost, tokens, retention, reserved, at = struct.unpack('<I2BI4I8i8I8I8', ARGV[3 + i])
  items[i] = {org = batch.orgs[org + 1], key = KEYS[batch.first_hold + i], state = SETTLED, basis = basis, cost = cost,
              tokens = tokens, flags = flags, retention = retention, reserved = reserved,
              ending = string.sub(ARGV[3 + i], at)}
end

-- write
return end_holds(batch, items)
