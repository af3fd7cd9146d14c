-- Append: sums of refusals, as rows and as counts per limit. Moves nothing that decides.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization
-- ARGV  clock_ms · heading · placing · one item per row: organization I2 · name (zero-terminated) ·
--       number of counts I2 · per count: field (zero-terminated), count I8 · the row's JSON
-- RETURNS  the time
-- WRITES  ledger rows, fields refused:… of the hashes
-- COST  O(rows)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
read_holds(batch)
local counts = {}
for i = 4, #ARGV do
  local org, name, n, at = struct.unpack('<I2sI2', ARGV[i])
  for _ = 1, n do
    local field, count
    field, count, at = struct.unpack('<sI8', ARGV[i], at)
    counts[#counts + 1] = {batch.orgs[org + 1].key, field, count}
  end
  add_note(batch.orgs[org + 1].shard, ROW_REFUSALS, name, string.sub(ARGV[i], at), batch.now)
end

-- write
write_batch(batch)
for _, count in ipairs(counts) do redis.call('HINCRBY', count[1], count[2], text_of(count[3])) end
return {text_of(batch.now)}
