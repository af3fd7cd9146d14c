-- A hold's record and the ledger row that its end leaves.
--
-- Record: HEAD (fixed size, the part that changes), length of the taken part I2, the taken part,
-- then the call (JSON by the sidecar, copied into the row).
-- Taken part, for each scope: number of counters B, field, layout (zero-terminated), then I8 per counter:
-- the period that it took from, 0 where it took nothing; LESSER more where it holds the first of the hold's
-- lesser amounts, twice that where it holds the second. Before the scopes: 0 B and both of them as I8, if there are.

local HEAD = '<BBBBI4I4I8I8I8I8I8I8I8i8c16'
local HEAD_SIZE = struct.size(HEAD)
local LESSER = 281474976710656 -- 2^48: above every time in ms
local AMOUNTS = '<BI8I8'

local function decode_hold(raw)
  local format, state, basis, on_expiry, flags, claims, reserved, expires, expires_max, ended, held, cost, tokens,
    output_max, fingerprint = struct.unpack(HEAD, raw)
  if format ~= 1 then error('hold of format ' .. format) end
  return {state = state, basis = basis, on_expiry = on_expiry, flags = flags, claims = claims, reserved = reserved,
          expires = expires, expires_max = expires_max, ended = ended, held = held, cost = cost, tokens = tokens,
          output_max = output_max, fingerprint = fingerprint, rest = string.sub(raw, HEAD_SIZE + 1),
          taken = false, lesser = false, most = false, least = false}
end

local function encode_hold(hold)
  return struct.pack(HEAD, 1, hold.state, hold.basis, hold.on_expiry, hold.flags, hold.claims, hold.reserved,
    hold.expires, hold.expires_max, hold.ended, hold.held, hold.cost, hold.tokens, hold.output_max,
    hold.fingerprint) .. hold.rest
end

-- What follows HEAD; the ledger row ends with the same bytes.
local function hold_rest(taken, call)
  return struct.pack('<I2', #taken) .. taken .. call
end

local taken_formats = formats('<Bss', 'I8')

local function pack_taken(field, layout, n, periods)
  return struct.pack(taken_formats[n], n, field, layout, unpack(periods, 1, n))
end

-- The scopes that a hold took from: {number of counters, field, layout, then the periods} each; and its
-- lesser amounts, false where it has none.
local function unpack_taken(rest)
  local scopes, at, finish, lesser = {nil, nil, nil}, 3, 2 + struct.unpack('<I2', rest), false
  while at <= finish do
    local n = struct.unpack('<B', rest, at)
    if n == 0 then
      local _, first, second
      _, first, second, at = struct.unpack(AMOUNTS, rest, at)
      lesser, n = {first, second}, struct.unpack('<B', rest, at)
    end
    local parts = {struct.unpack(taken_formats[n], rest, at)}
    at = parts[n + 4]
    scopes[#scopes + 1] = parts
  end
  return scopes, lesser
end

-- Which hold a key names, as due members and rows write it: organization/id.
local function member_of(org, key)
  return org.name .. '/' .. string.sub(key, -32)
end

local ROW = '<BBBBI4i8I8i8I8I8I8I8sI4'

-- A row of the ledger: ROW, then what follows HEAD in the hold's record, its size first, then the end.
local function add_row(shard, kind, member, hold, amount, now, ending)
  local rows = shard.rows or {}
  shard.rows = rows
  rows[#rows + 1] = struct.pack(ROW, 1, kind, hold.state, hold.basis, hold.flags, amount, hold.held, hold.cost,
    hold.tokens, hold.reserved, hold.expires, now, member, #hold.rest) .. hold.rest .. ending
end

-- A row that moves no counter.
local function add_note(shard, kind, member, text, now)
  add_row(shard, kind, member, {state = 0, basis = 0, flags = 0, held = 0, cost = 0, tokens = 0, reserved = now,
    expires = now, rest = hold_rest('', text)}, 0, now, '')
end

-- The due index: a hold is due when it expires, and no longer due when it has ended.
local function add_due(shard, expires, member)
  local adds = shard.adds or {}
  shard.adds = adds
  adds[#adds + 1], adds[#adds + 2] = text_of(expires), member
end

local function drop_due(shard, member)
  local drops = shard.drops or {}
  shard.drops = drops
  drops[#drops + 1] = member
end

local function put_record(batch, key, record, ttl_ms)
  batch.records[key] = record
  batch.puts[key] = ttl_ms
end

-- The second half of every writing verb. Nothing here can be refused for reasons of its own; the
-- ledger comes first, so that if the store refuses to write at all, nothing was changed.
local function write_batch(batch)
  for _, shard in ipairs(batch.shards) do
    if shard.rows then
      local id = (shard.epoch or text_of(batch.now)) .. '-*'
      for _, row in ipairs(shard.rows) do redis.call('XADD', shard.ledger, id, 'r', row) end
      if not shard.epoch then redis.call('SET', shard.epoch_key, text_of(batch.now)) end
    end
    if shard.adds then redis.call('ZADD', shard.due, unpack(shard.adds)) end
    if shard.drops then redis.call('ZREM', shard.due, unpack(shard.drops)) end
  end
  local fields = {}
  for _, org in ipairs(batch.orgs) do
    if org.dirty then
      local n = 0
      for field, state in pairs(org.values) do
        if type(state) == 'table' and state.dirty then
          fields[n + 1], fields[n + 2] = field, pack_scope(state)
          n = n + 2
        end
      end
      redis.call('HSET', org.key, unpack(fields, 1, n))
    end
    if org.puts then
      for field in pairs(org.puts) do redis.call('HSET', org.key, field, org.values[field]) end
    end
  end
  local lasting, n = {}, 0
  for key, ttl_ms in pairs(batch.puts) do
    if ttl_ms == 0 then
      lasting[n + 1], lasting[n + 2] = key, batch.records[key]
      n = n + 2
    else
      redis.call('SET', key, batch.records[key], 'PX', text_of(ttl_ms))
    end
  end
  if n > 0 then redis.call('MSET', unpack(lasting, 1, n)) end
end
