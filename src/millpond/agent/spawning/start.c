/* Starting a process, and taking in one that has ended, in one call each: what `start.py` does with posix_spawn and the
   switch, and `loop.py` with waitid, at less than half the cost.

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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum step { DIRECTORY, LOG, PROGRAM, EXEC, CGROUP, MAKING };

/* The same as `native._Order`. */
struct order {
    const char *launch;       /* the fields of `frames.LAUNCH`, each followed by a NUL byte */
    const char *marker;       /* NAME=value, up to the process's id */
    const unsigned *groups;
    const int *cgroups;       /* open cgroup.procs files */
    unsigned size, group_count, cgroup_count;
    unsigned uid, gid;
    int null;                 /* open for reading */
    int switches;             /* whether uid, gid and groups count */
    int error, step;          /* out */
};

/* What the fields say. */
struct task {
    const char *id, *directory, *stdout_path, *stderr_path;
    char *strings, *end;      /* the arguments, then NAME=value …, each followed by a NUL byte */
    unsigned arguments;
    int private_logs, appends, makes_directory, keeps;
};

/* A process that was started here and has not been taken in. */
struct process {
    struct process *next;
    int pid;
    const char *task, *stdout_path, *stderr_path;
    char paths[];
};

struct child {
    struct order *order;
    const struct task *task;
    char **arguments, **environment;
};

#define BUCKETS 1024

static char stack[128 * 1024] __attribute__((aligned(64)));
static struct process *processes[BUCKETS];
static int handled[32], handled_count = -1;

static int fails(struct order *order, enum step step) {
    order->error = errno ? errno : EINVAL;
    order->step = step;
    return -1;
}

static int open_log(const char *path, int appends) {
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | (appends ? 0 : O_TRUNC);
    return open(path, flags, 0644);
}

static int open_logs(const struct task *task, int *files) {
    files[0] = open_log(task->stdout_path, task->appends);
    if (files[0] < 0)
        return -1;
    files[1] = files[0];
    if (strcmp(task->stdout_path, task->stderr_path) != 0)
        files[1] = open_log(task->stderr_path, task->appends);
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

/* The path without its last name, into `parent`. */
static int parent_of(const char *path, char *parent) {
    const char *end = strrchr(path, '/');
    if (end == NULL || end - path >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, path, (size_t)(end - path));
    parent[end - path] = '\0';
    return 0;
}

/* The task's directory, the one its working directory is to be in. As root: whose it then is shows in the end. */
static int make_parent(const struct order *order, const struct task *task) {
    char parent[PATH_MAX];
    if (parent_of(task->directory, parent) != 0)
        return -1;
    if (order->switches)
        umask(0);
    if (mkdir(parent, 0770) != 0)
        return -1;
    return order->switches ? chown(parent, order->uid, order->gid) : 0;
}

static int run(struct child *child) {
    struct order *order = child->order;
    const struct task *task = child->task;
    int files[2];
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    char found[PATH_MAX];

    for (unsigned number = 0; number < order->cgroup_count; number++)
        if (write(order->cgroups[number], "0", 1) != 1)
            return fails(order, CGROUP);
    setsid();
    for (int number = 0; number < handled_count; number++)
        sigaction(handled[number], &standard, NULL);
    if (task->makes_directory && make_parent(order, task) != 0)
        return fails(order, MAKING);
    if (task->private_logs && open_logs(task, files) != 0)
        return fails(order, LOG);
    if (order->switches && become(order) != 0)
        return fails(order, CGROUP);
    if (task->makes_directory && mkdir(task->directory, 0770) != 0)
        return fails(order, MAKING);
    if (task->makes_directory)
        umask(022);
    if (chdir(task->directory) != 0)
        return fails(order, DIRECTORY);
    if (!task->private_logs && open_logs(task, files) != 0)
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

static char *after(const char *string) { return (char *)string + strlen(string) + 1; }

static int read_task(const struct order *order, struct task *task) {
    const char *field = task->id = order->launch;
    task->directory = field = after(field);
    task->stdout_path = field = after(field);
    task->stderr_path = field = after(field);
    const char *flags = field = after(field);
    task->keeps = strchr(flags, 'k') != NULL;
    task->private_logs = order->switches && strchr(flags, 'p') != NULL;
    task->appends = strchr(flags, 'a') != NULL;
    task->makes_directory = strchr(flags, 'm') != NULL;
    task->arguments = (unsigned)strtoul(field = after(field), NULL, 10);
    task->strings = after(field);
    task->end = (char *)order->launch + order->size;
    return task->arguments > 0 && task->strings < task->end;
}

/* The signals that Python handles or ignores: its handlers must not run in the new process, which shares its memory. */
static void look_at_signals(void) {
    handled_count = 0;
    for (int number = 1; number < 32; number++) {
        struct sigaction there;
        if (sigaction(number, NULL, &there) == 0 && there.sa_handler != SIG_DFL)
            handled[handled_count++] = number;
    }
}

static struct process *remember(const struct task *task) {
    size_t directory = strlen(task->directory) + 1, out = strlen(task->stdout_path) + 1;
    size_t err = strlen(task->stderr_path) + 1;
    struct process *process = malloc(sizeof *process + directory + out + err);
    if (process == NULL)
        return NULL;
    process->task = process->paths;
    if (parent_of(task->directory, process->paths) != 0)
        process->paths[0] = '\0';
    process->stdout_path = memcpy(process->paths + directory, task->stdout_path, out);
    process->stderr_path = memcpy(process->paths + directory + out, task->stderr_path, err);
    return process;
}

/* The pid, or -1 with `error` and `step`. Called in a process of one thread. */
int millpond_start(struct order *order) {
    struct task task;
    unsigned count = 0, number = 0;
    sigset_t all, before;
    volatile int shared = 1;

    order->error = 0;
    if (handled_count < 0)
        look_at_signals();
    if (!read_task(order, &task)) {
        errno = EINVAL;
        return fails(order, EXEC);
    }
    for (char *one = task.strings; one < task.end; one = after(one))
        count++;
    size_t marker_size = strlen(order->marker) + strlen(task.id) + 1;
    char **arguments = malloc((count + 3) * sizeof *arguments + marker_size);
    struct process *process = task.keeps ? NULL : remember(&task);
    if (arguments == NULL || (process == NULL && !task.keeps)) {
        free(arguments);
        free(process);
        errno = ENOMEM;
        return fails(order, EXEC);
    }
    char *marker = (char *)(arguments + count + 3);
    strcpy(stpcpy(marker, order->marker), task.id);
    char **next = arguments, **environment = arguments + task.arguments + 1;
    for (char *one = task.strings; one < task.end; one = after(one)) {
        if (number++ == task.arguments) {
            *next++ = NULL;
            *next++ = marker;
        }
        *next++ = one;
    }
    if (number == task.arguments) {
        *next++ = NULL;
        *next++ = marker;
    }
    *next = NULL;

    struct child child = {order, &task, arguments, environment};
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
    if (pid > 0 && process != NULL) {
        process->pid = pid;
        process->next = processes[pid % BUCKETS];
        processes[pid % BUCKETS] = process;
    } else {
        free(process);
    }
    return pid;
}

static int say_file(const char *path, char *said, int size) {
    struct stat facts;
    if (lstat(path, &facts) != 0)
        memset(&facts, 0, sizeof facts);
    return snprintf(said, (size_t)size, " %llu %lld %lld.%09ld %u", (unsigned long long)facts.st_ino,
                    (long long)facts.st_size, (long long)facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec, facts.st_mode);
}

/* A child that has ended, or 0. One that was started here, and keeps nothing, is taken in, its group killed: `said` is
   then what `frames.EXITED` says of it behind its id. Of any other `said` is empty, and it is still there. */
int millpond_reap(char *said, int size) {
    siginfo_t ended = {0};
    int status;
    struct rusage used;
    struct timespec now;
    struct stat facts;

    said[0] = '\0';
    if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid == 0)
        return 0;
    struct process **place = &processes[ended.si_pid % BUCKETS], *process;
    while ((process = *place) != NULL && process->pid != ended.si_pid)
        place = &process->next;
    if (process == NULL)
        return ended.si_pid;
    /* Before it is taken in: until then its number, which is its group's, belongs to nobody else. */
    kill(-ended.si_pid, SIGKILL);
    wait4(ended.si_pid, &status, 0, &used);
    clock_gettime(CLOCK_REALTIME, &now);
    int length = snprintf(said, (size_t)size, "%d %lld.%06ld %lld.%06ld %lld.%06ld",
                          WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status), (long long)now.tv_sec,
                          now.tv_nsec / 1000, (long long)used.ru_utime.tv_sec, (long)used.ru_utime.tv_usec,
                          (long long)used.ru_stime.tv_sec, (long)used.ru_stime.tv_usec);
    if (lstat(process->task, &facts) == 0) {
        length += snprintf(said + length, (size_t)(size - length), " %llu", (unsigned long long)facts.st_ino);
        length += say_file(process->stdout_path, said + length, size - length);
        say_file(process->stderr_path, said + length, size - length);
    }
    *place = process->next;
    free(process);
    return ended.si_pid;
}
