#include "base/cpu.h"

#include "base/status.h"

#include <string.h>

static cpu_level limit = CPU_AVX512;

#if defined(__x86_64__)

cpu_level cpu_machine(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_PORTABLE;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
               ? CPU_AVX512
               : CPU_AVX2;
}

bool cpu_has_bf16(void)
{
    return cpu_best() == CPU_AVX512 && __builtin_cpu_supports("avx512bf16");
}

#else

cpu_level cpu_machine(void)
{
    return CPU_PORTABLE;
}

bool cpu_has_bf16(void)
{
    return false;
}

#endif

cpu_level cpu_best(void)
{
    const cpu_level machine = cpu_machine();
    return machine < limit ? machine : limit;
}

const char *cpu_level_name(cpu_level level)
{
    static const char *const names[CPU_LEVELS] = {"portable", "avx2", "avx512"};
    return names[level];
}

spectra_status cpu_limit(const char *name, const char *where)
{
    int level = name ? CPU_PORTABLE : CPU_AVX512;
    while (name && level < CPU_LEVELS && strcmp(name, cpu_level_name((cpu_level)level)) != 0)
        level++;
    if (level == CPU_LEVELS)
        return fail(SPECTRA_EINVAL, "%s is '%s', allowed is portable|avx2|avx512", where, name);
    if (name && level > (int)cpu_machine())
        return fail(SPECTRA_EINVAL, "%s is '%s', this processor has no more than %s", where, name,
                    cpu_level_name(cpu_machine()));
    limit = (cpu_level)level;
    return SPECTRA_OK;
}
