#include "base/bytes.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void sha256_of(const void *data, size_t size, sha256_hex out)
{
    SHA256Data(data, size, out);
}

spectra_status read_whole_file(const char *path, size_t limit, byte_buffer *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        int error = fd < 0 ? errno : 0;
        if (fd >= 0)
            close(fd);
        return fail(SPECTRA_EIO, "%s: cannot read: %s", path,
                    error ? strerror(error) : "it is no file");
    }
    size_t size = (size_t)info.st_size, done = 0;
    char *data = size <= limit ? malloc(size + 1) : NULL;
    ssize_t n = 0;
    while (data && done < size) {
        n = read(fd, data + done, size - done);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (!data || done < size) {
        free(data);
        return size > limit ? fail(SPECTRA_EFORMAT, "%s: longer than %zu bytes", path, limit)
               : !data      ? fail(SPECTRA_ENOMEM, "%s: out of memory", path)
                            : fail(SPECTRA_EIO, "%s: cannot read: %s", path,
                              n < 0 ? strerror(errno) : "it became shorter");
    }
    data[size] = 0;
    *out = (byte_buffer){data, size};
    return SPECTRA_OK;
}
