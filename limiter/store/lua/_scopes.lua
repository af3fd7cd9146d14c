-- The counters of one scope: one field of the organization's hash, packed.
--
--   format 1 · last_ms I8 · layout (the counters' names, comma-separated, zero-terminated) ·
--   then WIDTH integers i8 for each counter, in the layout's order:
--     spend        period_ms, window_end_ms, settled usd, settled nano, held usd, held nano, warned
--     bucket       period_ms, last tick, level, amount, burst, ticks per period, ms per tick
--     concurrency  period_ms, open holds, 0, 0, 0, 0, 0
--   `warned` is the highest threshold reported in the window, in millionths of the ceiling.
--
-- period_ms is when the counter began to count what it now holds (its creation, or its window). A
-- hold remembers it: what it took is given back only to the same period of the same counter.
-- A level is in 1/ticks of a token or request, so that refilling adds `amount` per tick, exactly.

local WIDTH = 7

-- Formats by how many of `each` they have behind `head`; made once.
local function formats(head, each)
  return setmetatable({}, {__index = function(cache, n)
    cache[n] = head .. string.rep(each, n)
    return cache[n]
  end})
end

local integers, counters = formats('<', 'i8'), formats('<BI8s', 'i8')

local function unpack_scope(raw)
  local format, last, layout, at = struct.unpack('<BI8s', raw)
  if format ~= 1 then error('scope of format ' .. format) end
  local n = (#raw - at + 1) / 8
  -- struct.unpack's last value is a position; it stays behind the last counter and is never read.
  return {last = last, layout = layout, n = n, dirty = false, v = n > 0 and {struct.unpack(integers[n], raw, at)} or {}}
end

local function pack_scope(state)
  return struct.pack(counters[state.n], 1, state.last, state.layout, unpack(state.v, 1, state.n))
end

-- The counters of a scope as they were read or as they are by now; false where there are none.
local function open_scope(org, field)
  local found = org.values[field]
  if type(found) == 'string' then
    found = unpack_scope(found)
    org.values[field] = found
  end
  return found
end

-- What a layout says: its counters' names and kinds in order, and where each name stands. Remembered from call to
-- call, as policies have few layouts; forgotten all at once before they become too many.
local LAYOUTS_MAX = 1000
local layouts, layouts_known = {}, 0
local KINDS = {spend = SPEND, requests = REQUESTS, tokens = TOKENS, concurrency = CONCURRENCY}

local function layout_of(layout)
  local found = layouts[layout]
  if found then return found end
  found = {counters = 0, names = {}, kinds = {}, at = {}}
  for name in string.gmatch(layout, '[^,]+') do
    found.at[name] = found.counters * WIDTH
    found.counters = found.counters + 1
    found.names[found.counters] = name
    found.kinds[found.counters] = KINDS[string.match(name, ':(%a+):')]
  end
  if layouts_known >= LAYOUTS_MAX then layouts, layouts_known = {}, 0 end
  layouts[layout], layouts_known = found, layouts_known + 1
  return found
end

-- Brings a scope to another layout: counters keep their values by name, those that are gone are
-- dropped, new ones are left false for the plan to start.
local function relayout(state, layout)
  local old, v, n = layout_of(state.layout).at, {}, 0
  for _, name in ipairs(layout_of(layout).names) do
    local from = old[name]
    for i = 1, WIDTH do v[n + i] = from and state.v[from + i] or false end
    n = n + WIDTH
  end
  state.layout, state.v, state.n, state.relaid = layout, v, n, true
end

local function refill(v, at, now)
  local tick = floor(now / v[at + 7])
  if tick > v[at + 2] then
    v[at + 3] = math.min(v[at + 5] * v[at + 6], v[at + 3] + (tick - v[at + 2]) * v[at + 4])
    v[at + 2] = tick
  end
end

-- Gives `count` tokens or requests back to a bucket, unless it would by now be full without them.
local function refund(v, at, now, reserved_ms, count)
  local elapsed = floor(now / v[at + 7]) - floor(reserved_ms / v[at + 7])
  local size = v[at + 5] * v[at + 6]
  if elapsed * v[at + 4] >= size then return end
  v[at + 3] = math.min(size, v[at + 3] + count * v[at + 6])
end

-- Takes what was used beyond the hold; debt stops at one burst. Answers whether more was used.
local function take_more(v, at, count)
  local level = v[at + 3] - count * v[at + 6]
  local lowest = -v[at + 5] * v[at + 6]
  v[at + 3] = math.max(lowest, level)
  return level < lowest
end

-- Marks a scope as changed, to be written at the end; and how late its counters began, if some may have.
local function touch(org, state, now)
  if state.dirty then return end
  if now > state.last then state.last = now end
  state.dirty = true
  org.dirty = true
  if state.fresh and state.fresh > org.began then
    org.began = state.fresh
    put_field(org, 'began', text_of(state.fresh))
  end
end
