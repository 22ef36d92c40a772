/* Starting a process, and taking in one that has ended, in one call each: what `start.py` does with posix_spawn and the
   switch, and `loop.py` with waitid, at less than half the cost.

   The new process shares the spawner's memory until it becomes the task's program, as with vfork, so nothing is copied.
   In it, and in it alone, the user is changed: nobody but root can send the spawner itself a signal. The spawner does
   not wait for that. All that the new process needs until then, its stack too, is in a block of its own (`struct start`)
   with a word in it that the kernel clears once the memory is shared no more. Whether it became the task's program is
   seen by then: if not, the reason is in the block, and the process has ended or is about to.

   What the new process does before that happens beside whatever else the spawner does, in the same memory. So it asks
   the kernel itself (`call`): it must not write what belongs to the spawner's thread, and the library's errno does.

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
    const int *cgroups;       /* open files of the groups to join */
    unsigned size, group_count, cgroup_count;
    unsigned uid, gid;
    int null;                 /* open for reading */
    int switches;             /* whether uid, gid and groups count */
};

/* What the fields say. */
struct task {
    const char *id, *directory, *stdout_path, *stderr_path;
    char *strings, *end;      /* the arguments, then NAME=value …, each followed by a NUL byte */
    unsigned arguments;
    int private_logs, appends, makes_directory, keeps;
};

/* A process that has yet to become its program, or could not and has not been taken in. */
struct start {
    struct start *next;
    int shared;               /* cleared by the kernel, once the process uses none of this any more */
    int error, step;          /* why it could not */
    int pid;
    long long continue_at;    /* ns, monotonic */
    struct order order;
    struct task task;
    char **arguments, **environment;
};

/* A process that was started here and has not been taken in. */
struct process {
    struct process *next;
    int pid, keeps;
    const char *task, *stdout_path, *stderr_path;
    char paths[];
};

#define BUCKETS 1024
#define STACK (48 * 1024)
#define PATIENCE_NS (50 * 1000 * 1000LL)

static struct process *processes[BUCKETS];
static struct start *starts, **last_start = &starts;   /* in order */
static int handled[32], handled_count = -1;

/* A system call: its result, or -errno. Where it is not known here how to make one without the library's errno, the
   spawner waits for each new process after all. */
#define CALL(name, ...) call(SYS_##name, (long[5]){__VA_ARGS__})
#ifndef __LP64__
#error "with 32 bits some of these calls are others"
#elif defined(__x86_64__)
#define WAITS 0
static long call(long number, const long *with) {
    long result;
    register long fourth __asm__("r10") = with[3], fifth __asm__("r8") = with[4];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(with[0]), "S"(with[1]), "d"(with[2]), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
#define WAITS 0
static long call(long number, const long *with) {
    register long of __asm__("x8") = number;
    register long first __asm__("x0") = with[0], second __asm__("x1") = with[1], third __asm__("x2") = with[2];
    register long fourth __asm__("x3") = with[3], fifth __asm__("x4") = with[4];
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(of), "r"(second), "r"(third), "r"(fourth), "r"(fifth)
                     : "memory", "cc");
    return first;
}
#else
#define WAITS 1
static long call(long number, const long *with) {
    long result = syscall(number, with[0], with[1], with[2], with[3], with[4]);
    return result == -1 ? -errno : result;
}
#endif

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* --- in the new process --- */

static void fails(struct start *start, enum step step, long result) {
    start->step = step;
    start->error = result < 0 ? (int)-result : EINVAL;
}

static int open_log(const char *path, int appends) {
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | (appends ? 0 : O_TRUNC);
    return (int)CALL(openat, AT_FDCWD, (long)path, flags, 0644);
}

static int open_logs(const struct task *task, int *files) {
    files[0] = open_log(task->stdout_path, task->appends);
    if (files[0] < 0)
        return files[0];
    files[1] = files[0];
    if (strcmp(task->stdout_path, task->stderr_path) != 0)
        files[1] = open_log(task->stderr_path, task->appends);
    return files[1] < 0 ? files[1] : 0;
}

static long become(const struct order *order) {
    long result = CALL(setgroups, order->group_count, (long)order->groups);
    if (result == 0)
        result = CALL(setresgid, order->gid, order->gid, order->gid);
    return result == 0 ? CALL(setresuid, order->uid, order->uid, order->uid) : result;
}

static long look_at(const char *path, struct stat *facts) {
    return CALL(newfstatat, AT_FDCWD, (long)path, (long)facts);
}

/* As `start.find_program`: the first executable file on the PATH, maybe in `found`. */
static long find_program(const char *name, char **environment, char *found, const char **program) {
    struct stat facts;
    *program = name;
    if (strchr(name, '/') != NULL)
        return look_at(name, &facts);
    const char *path = "";
    for (char **one = environment; *one != NULL; one++)
        if (strncmp(*one, "PATH=", 5) == 0)
            path = *one + 5;
    *program = found;
    long result = -ENOENT;
    while (*name != '\0') {
        const char *end = strchrnul(path, ':');
        size_t length = (size_t)(end - path);
        if (length + strlen(name) + 3 <= PATH_MAX) {
            memcpy(found, length ? path : ".", length ? length : 1);
            length = length ? length : 1;
            found[length] = '/';
            strcpy(found + length + 1, name);
            if (look_at(found, &facts) == 0) {
                /* By its real user, which is the one it acts as here. */
                if (S_ISREG(facts.st_mode) && CALL(faccessat, AT_FDCWD, (long)found, X_OK) == 0)
                    return 0;
                result = -EACCES;
            }
        }
        if (*end == '\0')
            break;
        path = end + 1;
    }
    return result;
}

/* The path without its last name, into `parent`. */
static long parent_of(const char *path, char *parent) {
    const char *end = strrchr(path, '/');
    if (end == NULL || end - path >= PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(parent, path, (size_t)(end - path));
    parent[end - path] = '\0';
    return 0;
}

/* The task's directory, the one its working directory is to be in. As root: whose it then is shows in the end. */
static long make_parent(const struct order *order, const struct task *task) {
    char parent[PATH_MAX];
    long result = parent_of(task->directory, parent);
    if (result != 0)
        return result;
    if (order->switches)
        CALL(umask, 0);
    result = CALL(mkdirat, AT_FDCWD, (long)parent, 0770);
    if (result == 0 && order->switches)
        result = CALL(fchownat, AT_FDCWD, (long)parent, order->uid, order->gid);
    return result;
}

static void run(struct start *start) {
    const struct order *order = &start->order;
    const struct task *task = &start->task;
    int files[2];
    long result;
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    char found[PATH_MAX];
    const char *program;

    for (unsigned number = 0; number < order->cgroup_count; number++)
        if ((result = CALL(write, order->cgroups[number], (long)"0", 1)) != 1)
            return fails(start, CGROUP, result);
    CALL(setsid, 0);
    for (int number = 0; number < handled_count; number++)
        sigaction(handled[number], &standard, NULL);
    if (task->makes_directory && (result = make_parent(order, task)) != 0)
        return fails(start, MAKING, result);
    if (task->private_logs && (result = open_logs(task, files)) != 0)
        return fails(start, LOG, result);
    if (order->switches && (result = become(order)) != 0)
        return fails(start, CGROUP, result);
    if (task->makes_directory && (result = CALL(mkdirat, AT_FDCWD, (long)task->directory, 0770)) != 0)
        return fails(start, MAKING, result);
    if (task->makes_directory)
        CALL(umask, 022);
    if ((result = CALL(chdir, (long)task->directory)) != 0)
        return fails(start, DIRECTORY, result);
    if (!task->private_logs && (result = open_logs(task, files)) != 0)
        return fails(start, LOG, result);
    if ((result = find_program(start->arguments[0], start->environment, found, &program)) != 0)
        return fails(start, PROGRAM, result);
    int sources[] = {order->null, files[0], files[1]};
    for (int number = 0; number < 3; number++)
        if ((result = CALL(dup3, sources[number], number)) < 0)
            return fails(start, LOG, result);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fails(start, EXEC, CALL(execve, (long)program, (long)start->arguments, (long)start->environment));
}

static int begin(void *start) {
    run(start);
    CALL(exit, 127);
    return 127;
}

/* --- in the spawner --- */

static char *after(const char *string) { return (char *)string + strlen(string) + 1; }

static int read_task(const char *launch, unsigned size, struct task *task) {
    const char *field = task->id = launch;
    task->directory = field = after(field);
    task->stdout_path = field = after(field);
    task->stderr_path = field = after(field);
    const char *flags = field = after(field);
    task->keeps = strchr(flags, 'k') != NULL;
    task->private_logs = strchr(flags, 'p') != NULL;
    task->appends = strchr(flags, 'a') != NULL;
    task->makes_directory = strchr(flags, 'm') != NULL;
    task->arguments = (unsigned)strtoul(field = after(field), NULL, 10);
    task->strings = after(field);
    task->end = (char *)launch + size;
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
    process->keeps = task->keeps;
    process->task = process->paths;
    if (parent_of(task->directory, process->paths) != 0)
        process->paths[0] = '\0';
    process->stdout_path = memcpy(process->paths + directory, task->stdout_path, out);
    process->stderr_path = memcpy(process->paths + directory + out, task->stderr_path, err);
    return process;
}

/* So many bytes of what `place` says is left. */
static void *take(char **place, size_t size) {
    char *taken = *place;
    *place += (size + 15) / 16 * 16;
    return taken;
}

static void *copy(char **place, const void *source, size_t size) {
    return size ? memcpy(take(place, size), source, size) : NULL;
}

/* Everything the new process needs; its stack ends at `stack_end`. */
static struct start *prepare(const struct order *order, const struct task *told, char **stack_end) {
    unsigned count = 0, number = 0;
    for (char *one = told->strings; one < told->end; one = after(one))
        count++;
    size_t marker_size = strlen(order->marker) + strlen(told->id) + 1;
    size_t groups = order->group_count * sizeof *order->groups, cgroups = order->cgroup_count * sizeof *order->cgroups;
    size_t vectors = (count + 3) * sizeof(char *);
    char *place = malloc(sizeof(struct start) + STACK + vectors + groups + cgroups + marker_size + order->size + 8 * 16);
    if (place == NULL)
        return NULL;
    struct start *start = take(&place, sizeof *start);
    take(&place, STACK);
    *stack_end = place;
    start->order = *order;
    start->order.groups = copy(&place, order->groups, groups);
    start->order.cgroups = copy(&place, order->cgroups, cgroups);
    start->order.launch = copy(&place, order->launch, order->size);
    read_task(start->order.launch, order->size, &start->task);
    start->task.private_logs &= order->switches;
    char *marker = take(&place, marker_size);
    strcpy(stpcpy(marker, order->marker), told->id);
    char **next = start->arguments = take(&place, vectors);
    start->environment = start->arguments + told->arguments + 1;
    for (char *one = start->task.strings; one < start->task.end; one = after(one)) {
        if (number++ == told->arguments) {
            *next++ = NULL;
            *next++ = marker;
        }
        *next++ = one;
    }
    if (number == told->arguments) {
        *next++ = NULL;
        *next++ = marker;
    }
    *next = NULL;
    return start;
}

static int is_shared(struct start *start) { return __atomic_load_n(&start->shared, __ATOMIC_ACQUIRE); }

/* Forget a start, which `place` points to. */
static void drop(struct start **place) {
    struct start *start = *place;
    *place = start->next;
    if (last_start == &start->next)
        last_start = place;
    free(start);
}

/* Starts a process: its pid, or -errno. */
int millpond_begin(const struct order *order) {
    struct task task;
    char *stack_end;
    sigset_t all, before;

    if (handled_count < 0)
        look_at_signals();
    if (!read_task(order->launch, order->size, &task))
        return -EINVAL;
    struct process *process = remember(&task);
    struct start *start = prepare(order, &task, &stack_end);
    if (process == NULL || start == NULL) {
        free(process);
        free(start);
        return -ENOMEM;
    }
    start->shared = 1;
    start->error = 0;
    start->continue_at = now() + PATIENCE_NS;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int pid = clone(begin, stack_end, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, start, NULL, NULL, &start->shared);
    int error = errno;
    while (WAITS && pid > 0 && is_shared(start)) {
        struct timespec patience = {0, PATIENCE_NS};
        if (syscall(SYS_futex, &start->shared, FUTEX_WAIT, 1, &patience, NULL, 0) != 0 && errno == ETIMEDOUT)
            kill(pid, SIGCONT);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        free(process);
        free(start);
        return -error;
    }
    start->pid = process->pid = pid;
    start->next = NULL;
    *last_start = start;
    last_start = &start->next;
    process->next = processes[pid % BUCKETS];
    processes[pid % BUCKETS] = process;
    return pid;
}

/* How many have yet to become their programs, or could not and have not been taken in. One that takes long is
   continued, lest a user who stops it stops it for good. */
int millpond_begun(void) {
    int count = 0;
    for (struct start **place = &starts; *place != NULL;) {
        struct start *start = *place;
        if (!is_shared(start) && start->error == 0) {
            drop(place);
            continue;
        }
        if (is_shared(start) && now() >= start->continue_at) {
            kill(start->pid, SIGCONT);
            start->continue_at = now() + PATIENCE_NS;
        }
        place = &start->next;
        count++;
    }
    return count;
}

/* Whether that process is one of them. */
int millpond_is_beginning(int pid) {
    struct start *start = starts;
    while (start != NULL && start->pid != pid)
        start = start->next;
    return start != NULL && (start->error != 0 || is_shared(start));
}

static int say_file(const char *path, char *said, int size) {
    struct stat facts;
    if (lstat(path, &facts) != 0)
        memset(&facts, 0, sizeof facts);
    return snprintf(said, (size_t)size, " %llu %lld %lld.%09ld %u", (unsigned long long)facts.st_ino,
                    (long long)facts.st_size, (long long)facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec, facts.st_mode);
}

/* A child that has ended, or 0. One that was started here is taken in: `said` is then "! errno step" if it could not
   become its program; else, unless it keeps something, what `frames.EXITED` says of it behind its id, and its group is
   killed. Of any other `said` is empty, and it is still there. */
int millpond_take_in(char *said, int size) {
    siginfo_t ended = {0};
    int status, error = 0, step = 0;
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
    *place = process->next;
    struct start **begun = &starts;
    while (*begun != NULL && (*begun)->pid != ended.si_pid)
        begun = &(*begun)->next;
    if (*begun != NULL) {
        error = (*begun)->error;
        step = (*begun)->step;
        drop(begun);
    }
    if (error != 0) {
        wait4(ended.si_pid, &status, 0, &used);
        snprintf(said, (size_t)size, "! %d %d", error, step);
    } else if (!process->keeps) {
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
    }
    free(process);
    return ended.si_pid;
}
