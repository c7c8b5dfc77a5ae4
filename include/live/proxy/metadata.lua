-- Tells the served name and the release in a model's metadata, which the server answers for its own ensemble.

function envoy_on_response(handle)
  if handle:headers():get(":status") ~= "200" then return end
  local context = handle:filterContext()
  local name, parameters = context:get("name"), context:get("parameters")
  local body = handle:body()  -- waits for it, and what was got before is then gone
  local rest = body and body:getBytes(0, body:length()):match("^%s*{(.*)$")
  if not rest then return end
  if name then rest = rest:gsub('"name"%s*:%s*"ensemble"', function() return '"name":' .. name end, 1) end
  body:setBytes('{"parameters":' .. parameters .. "," .. rest)
end
