/* Preloaded: counts what the data plane's threads (portside-N) allocate, in a shared file.
 *
 * For test_allocations.py. glibc keeps its own functions under other names, so that no look-up, which
 * would allocate itself, is needed. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static uint64_t *counter;
static __thread int is_worker __attribute__((tls_model("initial-exec")));

__attribute__((constructor)) static void open_counter(void) {
  const char *path = getenv("COUNT_MALLOCS");
  int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (file < 0 || ftruncate(file, sizeof *counter) != 0) return;
  void *at = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at != MAP_FAILED) counter = at;
  close(file);
}

static void count(void) {
  if (!counter) return;
  if (!is_worker) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "portside-", 9) != 0) return;
    is_worker = 1;
  }
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size) { count(); return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { count(); return __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { count(); return __libc_realloc(old, size); }
void *aligned_alloc(size_t align, size_t size) { count(); return __libc_memalign(align, size); }
int posix_memalign(void **to, size_t align, size_t size) {
  count();
  *to = __libc_memalign(align, size);
  return *to ? 0 : 12 /* ENOMEM */;
}
