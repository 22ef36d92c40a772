/* Starting a process, in one call: what `start.py` does with posix_spawn and the switch, at less than half the cost.

   The new process shares the spawner's memory until it becomes the task's program, as with vfork, so nothing is copied.
   In it, and in it alone, the user is changed: nobody but root can send the spawner itself a signal. The spawner waits
   on a word that the kernel clears once the memory is shared no more; a process that its user stops before that is
   continued, so that no task can hold up the spawner.

   Built by `executors/compiled.py` where there is a C compiler; without, `start.py` does the same. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum step { DIRECTORY, LOG, PROGRAM, EXEC, CGROUP, MAKING };

/* The same as `native._Order`. */
struct order {
    const char *directory, *stdout_path, *stderr_path;
    const char *marker;       /* NAME=value */
    const char *strings;      /* the arguments, then NAME=value …, each followed by a NUL byte */
    const unsigned *groups;
    const int *cgroups;       /* open cgroup.procs files */
    unsigned strings_size, arguments, group_count, cgroup_count;
    unsigned uid, gid;
    int null;                 /* open for reading */
    int switches;             /* whether uid, gid and groups count */
    int private_logs, appends, makes_directory;
    int error, step;          /* out */
};

struct child {
    struct order *order;
    char **arguments, **environment;
};

static char stack[128 * 1024] __attribute__((aligned(64)));

static int fails(struct order *order, enum step step) {
    order->error = errno ? errno : EINVAL;
    order->step = step;
    return -1;
}

static int open_log(const char *path, int appends) {
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | (appends ? 0 : O_TRUNC);
    return open(path, flags, 0644);
}

static int open_logs(struct order *order, int *files) {
    files[0] = open_log(order->stdout_path, order->appends);
    if (files[0] < 0)
        return -1;
    files[1] = files[0];
    if (strcmp(order->stdout_path, order->stderr_path) != 0)
        files[1] = open_log(order->stderr_path, order->appends);
    return files[1] < 0 ? -1 : 0;
}

/* By the system's own calls: the library's would look for other threads to change with this one. */
static int become(const struct order *order) {
    if (syscall(SYS_setgroups, (size_t)order->group_count, order->groups) != 0)
        return -1;
    if (syscall(SYS_setresgid, order->gid, order->gid, order->gid) != 0)
        return -1;
    return syscall(SYS_setresuid, order->uid, order->uid, order->uid) != 0 ? -1 : 0;
}

/* As `start.find_program`: the first executable file on the PATH, into `found`. */
static const char *find_program(const char *name, char **environment, char *found) {
    struct stat facts;
    if (strchr(name, '/') != NULL)
        return stat(name, &facts) == 0 ? name : NULL;
    const char *path = "";
    for (char **one = environment; *one != NULL; one++)
        if (strncmp(*one, "PATH=", 5) == 0)
            path = *one + 5;
    int error = ENOENT;
    while (*name != '\0') {
        const char *end = strchrnul(path, ':');
        size_t length = (size_t)(end - path);
        if (length + strlen(name) + 3 <= PATH_MAX) {
            memcpy(found, length ? path : ".", length ? length : 1);
            length = length ? length : 1;
            found[length] = '/';
            strcpy(found + length + 1, name);
            if (stat(found, &facts) == 0) {
                if (S_ISREG(facts.st_mode) && faccessat(AT_FDCWD, found, X_OK, AT_EACCESS) == 0)
                    return found;
                error = EACCES;
            }
        }
        if (*end == '\0')
            break;
        path = end + 1;
    }
    errno = error;
    return NULL;
}

/* The task's directory, the one its working directory is to be in. As root: whose it then is shows in the end. */
static int make_parent(const struct order *order) {
    char parent[PATH_MAX];
    const char *end = strrchr(order->directory, '/');
    if (end == NULL || end - order->directory >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, order->directory, (size_t)(end - order->directory));
    parent[end - order->directory] = '\0';
    if (order->switches)
        umask(0);
    if (mkdir(parent, 0770) != 0)
        return -1;
    return order->switches ? chown(parent, order->uid, order->gid) : 0;
}

static int run(struct child *child) {
    struct order *order = child->order;
    int files[2];
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    char found[PATH_MAX];

    for (unsigned number = 0; number < order->cgroup_count; number++)
        if (write(order->cgroups[number], "0", 1) != 1)
            return fails(order, CGROUP);
    setsid();
    for (int number = 1; number < 32; number++)
        sigaction(number, &standard, NULL);
    if (order->makes_directory && make_parent(order) != 0)
        return fails(order, MAKING);
    if (order->private_logs && open_logs(order, files) != 0)
        return fails(order, LOG);
    if (order->switches && become(order) != 0)
        return fails(order, CGROUP);
    if (order->makes_directory && mkdir(order->directory, 0770) != 0)
        return fails(order, MAKING);
    if (order->makes_directory)
        umask(022);
    if (chdir(order->directory) != 0)
        return fails(order, DIRECTORY);
    if (!order->private_logs && open_logs(order, files) != 0)
        return fails(order, LOG);
    const char *program = find_program(child->arguments[0], child->environment, found);
    if (program == NULL)
        return fails(order, PROGRAM);
    if (dup2(order->null, 0) < 0 || dup2(files[0], 1) < 0 || dup2(files[1], 2) < 0)
        return fails(order, LOG);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(program, child->arguments, child->environment);
    return fails(order, EXEC);
}

static int begin(void *argument) {
    run(argument);
    syscall(SYS_exit, 127);
    return 127;
}

static char *after(char *string) { return string + strlen(string) + 1; }

/* The pid, or -1 with `error` and `step`. Called in a process of one thread. */
int millpond_start(struct order *order) {
    char *strings = (char *)order->strings, *end = strings + order->strings_size;
    unsigned count = 0, number = 0;
    sigset_t all, before;
    volatile int shared = 1;

    order->error = 0;
    for (char *one = strings; one < end; one = after(one))
        count++;
    char **arguments = malloc((count + 3) * sizeof *arguments);
    if (arguments == NULL)
        return fails(order, EXEC);
    char **next = arguments, **environment = arguments + order->arguments + 1;
    for (char *one = strings; one < end; one = after(one)) {
        if (number++ == order->arguments) {
            *next++ = NULL;
            *next++ = (char *)order->marker;
        }
        *next++ = one;
    }
    if (number == order->arguments) {
        *next++ = NULL;
        *next++ = (char *)order->marker;
    }
    *next = NULL;

    struct child child = {order, arguments, environment};
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int pid = clone(begin, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, &child, NULL, NULL, &shared);
    if (pid < 0)
        fails(order, EXEC);
    while (pid > 0 && shared) {
        struct timespec patience = {0, 50 * 1000 * 1000};
        if (syscall(SYS_futex, &shared, FUTEX_WAIT, 1, &patience, NULL, 0) != 0 && errno == ETIMEDOUT)
            kill(pid, SIGCONT);
    }
    if (pid > 0 && order->error != 0) {
        waitpid(pid, NULL, 0);
        pid = -1;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    free(arguments);
    return pid;
}
