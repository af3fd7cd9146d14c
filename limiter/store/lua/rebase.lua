-- Rebase: moves the newest rows of a ledger to a new epoch. Asked by the drain of a store that went back to an
-- earlier state (a backup, a failover) and wrote on: its new rows have the numbers of rows that the books have.
--
-- KEYS  ledger, epoch
-- ARGV  clock_ms · id of the first row to move · that row, as it was read · an epoch that the new one is beyond
-- RETURNS  rows moved; 0 too if another row is there by now
-- WRITES  the rows under the new epoch, the epoch
-- COST  O(rows written since)

local now = store_time(ARGV[1])
local rows = redis.call('XRANGE', KEYS[1], ARGV[2], '+')
if not rows[1] or rows[1][1] ~= ARGV[2] or rows[1][2][2] ~= ARGV[3] then return 0 end
local last = tonumber(string.match(rows[#rows][1], '^%d+'))
local epoch = text_of(math.max(now, last + 1, tonumber(ARGV[4]) + 1))

-- write
for _, row in ipairs(rows) do redis.call('XADD', KEYS[1], epoch .. '-*', 'r', row[2][2]) end
for _, row in ipairs(rows) do redis.call('XDEL', KEYS[1], row[1]) end
redis.call('SET', KEYS[2], epoch)
return #rows
