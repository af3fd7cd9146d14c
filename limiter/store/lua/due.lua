-- Due: finds the holds whose time has come, the earliest of each shard first.
--
-- KEYS  due of each shard
-- ARGV  clock_ms · at most how many of each shard
-- RETURNS  for each shard that has any: their members of the due index
-- WRITES  nothing
-- COST  O(shards + holds found)

local now, found = text_of(store_time(ARGV[1])), {}
for _, due in ipairs(KEYS) do
  local members = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[2])
  if members[1] then found[#found + 1] = members end
end
return found
