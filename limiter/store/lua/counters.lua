-- Counters: reads the counters of scopes, and the ledger row up to which they count.
--
-- KEYS  ledger, hash of the organization
-- ARGV  the scopes' fields
-- RETURNS  the id of the newest row ('' for none) · the packed counters of each field (false where there are none)
-- WRITES  nothing
-- COST  O(fields)

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {newest and newest[1] or '', unpack(redis.call('HMGET', KEYS[2], unpack(ARGV)))}
