-- Append: rows that move no counter (sums of refusals).
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization
-- ARGV  clock_ms · heading · placing · one item per row: organization I2 · name (zero-terminated) · the row's JSON
-- RETURNS  the time
-- WRITES  ledger rows
-- COST  O(rows)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
read_holds(batch)
for i = 4, #ARGV do
  local org, name, at = struct.unpack('<I2s', ARGV[i])
  add_note(batch.orgs[org + 1].shard, ROW_REFUSALS, name, string.sub(ARGV[i], at), batch.now)
end

-- write
write_batch(batch)
return {text_of(batch.now)}
