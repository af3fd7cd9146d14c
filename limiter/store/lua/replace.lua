-- Replace: sets fields of an organization's hash if one of them is still what the writer read.
--
-- KEYS  hash of the organization
-- ARGV  field to compare · its expected value ('' for absent) · then field, value pairs ('' deletes)
-- RETURNS  1 if replaced, 0 if somebody else was faster
-- WRITES  the fields
-- COST  O(fields)

local present = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if present ~= ARGV[2] then return 0 end

-- write
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
