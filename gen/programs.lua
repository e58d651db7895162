-- The name that runtime/kernel/generate.c asks for.
return require "gen.cuda_requests"
