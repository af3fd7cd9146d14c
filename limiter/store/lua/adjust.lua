-- Adjust: corrects what ended holds and charges cost, as an operator says; whatever they were settled by.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms · heading · placing · one item per hold: organization I2 · cost I8 · retention_ms I8 ·
--       size I4 of a record that stands in where the hold's own was retired · that record · the end (JSON)
-- RETURNS  the time, then per hold: found B · state B · basis B · repeated B · flags I4 · held I8 · cost i8
-- WRITES  records, counters, overages, one row per hold that changed; an open hold is left alone
-- COST  O(holds × counters)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items = {}
for i = 1, batch.items do
  local blob = ARGV[3 + i]
  local org, cost, retention, size, at = struct.unpack('<I2I8I8I4', blob)
  items[i] = {org = batch.orgs[org + 1], key = KEYS[batch.first_hold + i], state = SETTLED, basis = BY_USAGE,
              cost = cost, tokens = -1, flags = F_ADJUSTED, retention = retention, reserved = 0, adjusts = true,
              retired = size > 0 and string.sub(blob, at, at + size - 1) or nil, ending = string.sub(blob, at + size)}
end

-- write
return end_holds(batch, items)
