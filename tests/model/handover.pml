// SPDX-License-Identifier: Apache-2.0
// The hand-over of a pod from a source to a target agent, with all that may go wrong on the way. To be read beside
// agent/migration/handover.cc: stages, events and tables have their names from there. docs/design/handover-model.md
// says which line stands for what in the code, and tests/model/run checks it.
//
// Every option of a process is one act: between two acts anybody else may act, end, or lose a connection.
//   s_, h_   the source agent's memory (h_: what it has heard)      g_   the guard's      t_   the target agent's
// These are lost with their process. What is on the disks and in the pods is not.

#ifndef FAULTS
#define FAULTS 0  // how many in one run, of the kinds that are 1 below
#endif
#ifndef CRASHES
#define CRASHES 0  // an agent or the guard ends; a connection is cut; a wait ends too early; the copy's processes die
#endif
#ifndef REBOOTS
#define REBOOTS 0  // a node goes down with all its processes, and comes back with its disk
#endif
#ifndef DISKS
#define DISKS 0  // a record cannot be written, or nobody knows whether it was
#endif
#ifndef LOSSES
#define LOSSES 0  // an agent ends and never comes back
#endif

// Deliberate errors, one at a time (-DMUTANT=1). Each must be found.
#define CEDES_UNPREPARED 1           // the source does not wait for PREPARED
#define THAWS_WHEN_CEDED 2           // the guard thaws for a lost agent also when it has ceded
#define THAWS_BEFORE_RUNNING 3       // the target thaws its copy, then writes RUNNING
#define BELIEVES_UNWRITTEN_ABORT 4   // the source takes a target that is about to abort for one that has aborted
#define TELLS_UNWRITTEN_ABORT 5      // the target says ABORT before ABORTED is in its journal
#define TELLS_UNWRITTEN_PREPARED 6   // the target says PREPARED before it is in its journal
#define SPENDS_BEFORE_RUNNING 7      // the permit is spent before RUNNING is written
#define KILLS_WHEN_CEDED 8           // the source is killed as soon as it has ceded
#define DESTROYS_LAST 9              // the target writes ABORTED, then destroys its copy
#define RUNS_AFTER_RESTART 10        // a restarted target agent takes its PREPARED for a commit
#define NO_ROW_FOR_ABORTED 11        // the source's table does not know the target's ABORTED while it cedes
#define ABORTED_STAYS_FROZEN 12      // nobody thaws when the guard dies between its ABORTED and the thaw
#define END_THAWS_CEDED 13           // a guard that took over what was ceded, and then cannot serve, thaws it as it ends
#define FREEZES_AFTER_END_SIGNAL 14  // a guard that was told to end still freezes and cedes, and thaws as it ends
#define FORGETS_UNHEARD_ABORTED 15   // the controller lets the target forget an ABORTED that the source has not heard
#define UNKNOWN_IS_REFUSED 16        // the source takes "CEDED may or may not be written" for "not ceded"
#define THAWS_AGAIN 17               // a restarted target agent thaws what has run since, and was moved on
#define ABORTED_BESIDE_A_GUARD 18    // the source says Aborted while its guard may still freeze
#define RESTART_ABORTS_FROZEN 19     // a restarted source agent takes FROZEN for not ceded, while a guard still cedes
#define LATE_ANSWERS_COUNT 20        // an answer of the guard that came too late is taken for that to the next question
#define ASKS_THE_JOURNAL_ALONE 21    // the source does not take a guard's own word for it that it has not ceded
#ifndef MUTANT
#define MUTANT 0
#endif
#define M(name) (MUTANT == name)

byte faults = FAULTS;
#define FAULT(kind) (kind && faults > 0)

// ------------------------------------------------------------------------------------- pods and disks, and the rules

mtype = { RUNS, STILL, DEAD, ABSENT, TAKEN };  // TAKEN: a later migration has moved the copy on, and ceded it
mtype source = RUNS;                           // the pod's processes
mtype copy = ABSENT;                           // the restored ones

mtype = { NONE, OPEN, FROZEN, CEDED, DONE, ABORTED, PREPARED, RUNNING, WAITING, SPENT };
mtype source_journal = OPEN;
mtype target_journal = OPEN;
mtype permit = WAITING;    // of the target's containers
bool target_thawed;        // on the target's disk: its copy was thawed, so that RUNNING asks for nothing any more
bool target_known = true;  // the target's agent was not told to forget

bool ceded, prepared, copy_ran, source_rebooted;  // whether it ever was so; the first can be read in the journal

inline let_source_run() {
  if
  :: source == STILL ->
    source = RUNS;
    assert(copy != RUNS);                        // I1
    assert(!copy_ran);                           // nor one after the other: what the copy has done would be undone
    assert(!ceded || target_journal == ABORTED)  // once ceded, only a durable ABORTED thaws
  :: else
  fi
}

inline let_copy_run() {
  assert(copy != TAKEN);               // I1: it runs elsewhere
  copy = RUNS;
  copy_ran = true;
  assert(source != RUNS);              // I1
  assert(target_journal == RUNNING)    // the journal before the act
}

inline kill_source() {
  assert(target_journal == RUNNING);   // I3
  source = DEAD
}

// With journal.cc, MayFollow. The same state again writes nothing.
inline write_source(state) {
  assert(state == source_journal || (source_journal != DONE && source_journal != ABORTED));
  if
  :: state == FROZEN -> assert(source_journal == OPEN)
  :: state == CEDED -> assert(source_journal == FROZEN && source == STILL && prepared); ceded = true
  :: state == DONE -> assert((source_journal == CEDED || source_journal == DONE) && source == DEAD)
  :: state == ABORTED
  fi;
  source_journal = state
}

inline write_target(state) {
  assert(state == target_journal || (target_journal != RUNNING && target_journal != ABORTED));
  if
  :: state == PREPARED -> assert(target_journal == OPEN); prepared = true
  :: state == RUNNING -> assert((target_journal == PREPARED || target_journal == RUNNING) && ceded)
  :: state == ABORTED -> assert(copy != STILL && copy != RUNS)  // nothing of the copy is left
  fi;
  target_journal = state
}

// ----------------------------------------------------------------------------- connections between the agents (TCP)
// What was sent arrives once, in order, and up to some point; then the end is seen. Two of them, because the source may
// connect anew before the target has seen the end of the old one.

mtype = { HELLO, HELLO_OK, REFUSED, ARMED, AT_GATE, STATE, COMMIT, ABORT };  // and PREPARED, RUNNING
mtype = { BEGIN, RESUME, ASK };                                              // in HELLO
chan to_target[2] = [3] of { mtype, mtype };
chan to_source[2] = [4] of { mtype, mtype };
bool s_holds[2], t_holds[2];  // whose end is open
bool cut[2];                  // nothing that is sent from now on arrives
#define NO_LINE 2

// ------------------------------------------------------------------------------------------- what the agents remember

mtype = { kConnecting, kCopying, kFreezing, kSending, kAwaitingPrepared, kCeding, kAskingGuard, kCommitting,
          kAskingTarget, kTakingBack, kTargetRuns, kKilling, kDone, kAborting, kAborted };  // SourceStage
mtype = { kRestoring, kPreparing, kPrepared, kRunning };           // TargetStage, with kCommitting, kAborting, kAborted
mtype = { kFailed, kUnknown, kTargetAborted, kCommit, kNowhere };  // events, with kDone

bool source_up = true, source_gone;  // gone: for ever
mtype s_stage = kConnecting;
byte s_step;                         // within the stage
byte s_line = NO_LINE;               // stream_
bool h_gate, h_prepared, h_running, h_aborted, h_lost;
bool s_abort, s_finish;              // words that API calls left
bool s_told;                         // the target knows of the abort, or cannot be told

bool target_up = true, target_gone;
mtype t_stage = kRestoring;
byte t_step;
byte t_line = NO_LINE;               // stream_: the source's newest
byte t_bringing = NO_LINE;           // the one that brings the state
bool t_begun, t_cut;                 // bringing_: NotBegun, Served (begun), Cut (begun and cut)
bool t_armed, t_at_gate, t_state;    // what has come, and what was said to that
bool t_commit, t_abort;              // words that streams and API calls left

#define S(stage, step) (source_up && s_stage == stage && s_step == step)
#define T(stage, step) (target_up && t_stage == stage && t_step == step)

inline drain(channel) {
  do
  :: nempty(channel) -> channel?_, _
  :: empty(channel) -> break
  od
}

inline source_hangs_up() {
  if
  :: s_line != NO_LINE ->
    drain(to_source[s_line]);
    s_holds[s_line] = false; cut[s_line] = true; s_line = NO_LINE
  :: else
  fi
}

inline target_hangs_up(l) {
  drain(to_target[l]);
  t_holds[l] = false; cut[l] = true;
  if
  :: t_line == l -> t_line = NO_LINE
  :: else
  fi
}

inline tell_target(message) {
  if
  :: s_line != NO_LINE && !cut[s_line] -> assert(nfull(to_target[s_line])); to_target[s_line]!message, 0
  :: else
  fi
}

inline tell_source(l, message, state) {
  if
  :: l != NO_LINE && !cut[l] -> assert(nfull(to_source[l])); to_source[l]!message, state
  :: else
  fi
}

// Source::OpenStream, up to the answer.
#define FREE(l) (!s_holds[l] && !t_holds[l])
#define CAN_CONNECT (target_up && (FREE(0) || FREE(1)))
inline connect(kind) {
  source_hangs_up();
  s_line = (FREE(0) -> 0 : 1);
  drain(to_source[s_line]);
  s_holds[s_line] = true; t_holds[s_line] = true; cut[s_line] = false;
  to_target[s_line]!HELLO, kind;
  h_gate = false; h_prepared = false; h_running = false; h_aborted = false; h_lost = false
}

// ---------------------------------------------------------------------- the guard (runtime/guard/guard.cc, server.cc)

mtype = { FREEZE, DUMP, CEDE, THAW, TARGET_ABORTED, KILL };  // GuardOp
mtype = { OK, NO, UNSURE };                                  // GuardReply
mtype = { IDLE, FREEZING, DUMPING, CEDING, ABORTING, TAKING_BACK, KILLING };
mtype = { CONNECTED, HUNG_UP };
bool guard_up;
mtype g_state = OPEN;
mtype g_step = IDLE;               // what it is in the middle of
mtype g_answer = NONE;             // what it answers at the end of that
mtype g_agent = NONE;              // the agent's connection
bool g_dumped, g_gone, g_unsure;   // unsure: its CEDED may or may not be written
chan to_guard = [2] of { mtype };
chan from_guard = [2] of { mtype };

#define G(step) (guard_up && g_step == step)
#define ASKED(op) (G(IDLE) && to_guard?[op])

inline drain_guard() {
  do
  :: nempty(to_guard) -> to_guard?_
  :: nempty(from_guard) -> from_guard?_
  :: empty(to_guard) && empty(from_guard) -> break
  od
}

inline guard_ends() {
  guard_up = false; g_agent = NONE;
  g_state = OPEN; g_step = IDLE; g_answer = NONE; g_dumped = false; g_gone = false; g_unsure = false;
  drain_guard()
}

inline leave_guard() {
  if
  :: g_agent == CONNECTED -> g_agent = HUNG_UP
  :: else
  fi
}

inline answer(reply) {
  if
  :: g_agent == CONNECTED && reply != NONE -> from_guard!reply
  :: else
  fi
}

// Guard::Abort: the thaw, then the record.
inline guard_aborts(reply) {
  let_source_run();
  g_state = ABORTED; g_step = ABORTING; g_answer = reply
}

// Guards::start, Guard::Recover.
inline start_guard() {
  guard_up = true; g_agent = CONNECTED;
  g_state = source_journal;
  if
  :: source_journal == FROZEN -> guard_aborts(NONE)
  :: source_journal == ABORTED && ceded && !M(ABORTED_STAYS_FROZEN) -> let_source_run()
  :: else
  fi
}

active proctype Guard() {
end:
  do :: atomic {
    if
    // Freeze
    :: ASKED(FREEZE) ->
      to_guard?FREEZE;
      if
      :: g_state == OPEN && (!g_gone || M(FREEZES_AFTER_END_SIGNAL)) -> write_source(FROZEN); g_step = FREEZING
      :: g_state == OPEN && FAULT(DISKS) -> faults--; write_source(FROZEN); answer(NO)  // written, says the disk later
      :: g_state == FROZEN -> answer(OK)
      :: g_state != FROZEN -> answer(NO)  // when OPEN: not now (a signal, an exec, the disk)
      fi
    :: G(FREEZING) ->
      if
      :: source == RUNS ->
        assert(!(source_up && s_stage == kAborted));  // what was said to go on does not stand still once more
        source = STILL; g_state = FROZEN; g_step = IDLE; answer(OK)
      :: guard_aborts(NO)  // a task does not stand still, or a second look finds a signal
      fi
    // Dump, DumpEnded
    :: ASKED(DUMP) ->
      to_guard?DUMP;
      if
      :: g_state == FROZEN -> g_step = DUMPING
      :: else -> answer(NO)
      fi
    :: G(DUMPING) ->
      if
      :: g_dumped = true; g_step = IDLE; answer(OK)
      :: guard_aborts(NO)  // it failed, or was ended by the freeze limit or a lost agent
      fi
    // Cede
    :: ASKED(CEDE) ->
      to_guard?CEDE;
      if
      :: g_state == FROZEN && g_dumped -> write_source(CEDED); g_step = CEDING
      :: g_state == FROZEN && g_dumped && FAULT(DISKS) -> faults--; guard_aborts(NO)  // not written, that is known
      :: g_state == FROZEN && g_dumped && FAULT(DISKS) ->                             // nobody knows
        faults--;
        if
        :: write_source(CEDED)
        :: skip
        fi;
        g_state = CEDED; g_unsure = true; answer(UNSURE)
      :: g_state == FROZEN && !g_dumped -> answer(NO)
      :: g_state == CEDED -> answer(OK)
      :: g_state != FROZEN && g_state != CEDED -> answer(NO)
      fi
    :: G(CEDING) -> g_state = CEDED; g_step = IDLE; answer(OK)
    :: G(IDLE) && g_unsure && !M(UNKNOWN_IS_REFUSED) ->  // looks again, until the journal can be read
      g_unsure = false;
      if
      :: source_journal == CEDED
      :: source_journal == FROZEN -> guard_aborts(NONE)
      fi
    // Thaw
    :: ASKED(THAW) ->
      to_guard?THAW;
      if
      :: g_state == OPEN || g_state == FROZEN -> guard_aborts(OK)
      :: g_state == ABORTED -> answer(OK)
      :: g_state == CEDED || g_state == DONE -> answer(NO)
      fi
    :: G(ABORTING) ->
      if
      :: write_source(ABORTED)
      :: FAULT(DISKS) -> faults--
      fi;
      answer(g_answer); g_answer = NONE; g_step = IDLE
    // TargetAborted: the record, then the thaw
    :: ASKED(TARGET_ABORTED) && !g_unsure ->
      to_guard?TARGET_ABORTED;
      if
      :: g_state == CEDED -> write_source(ABORTED); g_step = TAKING_BACK
      :: g_state == CEDED && FAULT(DISKS) -> faults--; answer(NO)
      :: g_state == CEDED && FAULT(DISKS) -> faults--; write_source(ABORTED); answer(NO)  // nobody knows
      :: g_state == ABORTED -> answer(OK)
      :: g_state == OPEN || g_state == FROZEN -> guard_aborts(OK)
      :: g_state == DONE -> answer(NO)
      fi
    :: G(TAKING_BACK) -> let_source_run(); g_state = ABORTED; g_step = IDLE; answer(OK)
    // Kill
    :: ASKED(KILL) && !g_unsure ->
      to_guard?KILL;
      if
      :: g_state == CEDED -> kill_source(); g_step = KILLING
      :: g_state == DONE -> answer(OK)
      :: g_state != CEDED && g_state != DONE -> answer(NO)
      fi
    :: G(KILLING) ->
      if
      :: write_source(DONE); g_state = DONE; answer(OK)
      :: FAULT(DISKS) -> faults--; answer(NO)
      :: FAULT(DISKS) -> faults--; write_source(DONE); answer(NO)
      fi;
      g_step = IDLE
    // Tick: the freeze limit passes at any moment
    :: G(IDLE) && g_state == FROZEN -> guard_aborts(NONE)
    // AgentGone
    :: G(IDLE) && g_agent == HUNG_UP ->
      g_agent = NONE;
      drain_guard();
      if
      :: g_state == OPEN -> g_gone = true
      :: g_state == FROZEN || (g_state == CEDED && M(THAWS_WHEN_CEDED)) -> guard_aborts(NONE)
      :: else
      fi
    // Server::Finished; while its agent stays connected it lingers
    :: G(IDLE) && empty(to_guard) && g_agent == NONE &&
       (g_state == ABORTED || g_state == DONE || (g_state == OPEN && g_gone)) -> guard_ends()
    :: G(IDLE) && empty(to_guard) && g_state == CEDED && g_gone && M(FREEZES_AFTER_END_SIGNAL) ->
      let_source_run();  // ~FrozenCgroups
      guard_ends()
    fi }
  od
}

// Source::EnsureGuard: until there is a guard that has nothing else to answer.
#define GUARD_ANSWERS (guard_up && g_agent == CONNECTED && empty(to_guard) && empty(from_guard))
#define NEEDS_GUARD (!guard_up || g_agent == NONE || (g_agent == CONNECTED && nempty(from_guard)))
inline ensure_guard() {
  if
  :: guard_up && g_agent == NONE -> g_agent = CONNECTED
  :: guard_up && g_agent == CONNECTED && nempty(from_guard) -> g_agent = HUNG_UP  // a late answer: connects anew
  :: !guard_up -> start_guard()
  :: !guard_up && FAULT(CRASHES) ->  // it starts, cannot serve, and ends
    faults--;
    if
    :: M(END_THAWS_CEDED) && source_journal == CEDED -> let_source_run()  // ~FrozenCgroups
    :: else
    fi
  fi
}

// GuardClient::Ask, and no answer in time: what comes later must not be taken for the answer to something else.
inline give_up_asking() {
  if
  :: M(LATE_ANSWERS_COUNT)
  :: else -> leave_guard()
  fi
}

// ------------------------------------------------- the source agent (source.cc, source_copy.cc, source_send.cc)

#define HANDSHAKE (s_stage == kConnecting || (s_stage == kCopying && s_step == 3) || s_stage == kAskingTarget || \
                   s_stage == kAborted)
#define LISTENS (source_up && s_line != NO_LINE && !h_lost && !HANDSHAKE)
#define HEARS(message) (s_line != NO_LINE && to_source[s_line]?[message, _])
#define HEARS_ELSE(message) (s_line != NO_LINE && nempty(to_source[s_line]) && !to_source[s_line]?[message, _])
#define WANTED (!s_abort && !h_aborted)
#define FAIL_BECAUSE (h_aborted -> kTargetAborted : kFailed)  // Source::FailBecause

#define ROW(stage, done, failed, unknown, aborted) \
  :: s_stage == stage -> \
    s_stage = (event == kDone -> done : (event == kFailed -> failed : (event == kUnknown -> unknown : aborted)))
#define CEDING_ABORTED (M(NO_ROW_FOR_ABORTED) -> kNowhere : kAborting)

inline source_ends() {
  source_up = false;
  source_hangs_up();
  leave_guard();
  s_stage = kAborting; s_step = 0;
  h_gate = false; h_prepared = false; h_running = false; h_aborted = false; h_lost = false;
  s_abort = false; s_finish = false; s_told = true
}

active proctype SourceAgent() {
  mtype event;
end:
  do :: atomic {
    if
    // Recover
    :: !source_up && !source_gone ->
      source_up = true;
      if
      :: source_journal == OPEN || (source_journal == FROZEN && M(RESTART_ABORTS_FROZEN)) -> s_stage = kAborting
      :: source_journal == FROZEN && !M(RESTART_ABORTS_FROZEN) -> s_stage = kAskingGuard  // it may be about to cede
      :: source_journal == CEDED -> s_stage = kAskingTarget
      :: source_journal == DONE -> s_stage = kDone
      :: source_journal == ABORTED -> s_stage = (ceded && !M(ABORTED_STAYS_FROZEN) -> kTakingBack : kAborted)
      fi
    // Listen
    :: LISTENS && nempty(to_source[s_line]) ->
      if
      :: to_source[s_line]?AT_GATE, _ -> h_gate = true
      :: to_source[s_line]?PREPARED, _ -> h_prepared = true
      :: to_source[s_line]?RUNNING, _ -> h_running = true
      :: to_source[s_line]?ABORT, _ -> h_aborted = true
      fi
    :: LISTENS && cut[s_line] -> drain(to_source[s_line]); h_lost = true

    // Connect
    :: S(kConnecting, 0) && CAN_CONNECT -> connect(BEGIN); s_step = 1
    :: S(kConnecting, 1) && HEARS(HELLO_OK) -> to_source[s_line]?_, _; event = kDone
    :: source_up && s_stage == kConnecting -> source_hangs_up(); s_told = true; event = kFailed  // refused, no answer

    // Copy: rounds; then the guard is started, and the target told to get ready
    :: S(kCopying, 0) && WANTED && !h_lost -> start_guard(); tell_target(ARMED); s_step = 1
    :: S(kCopying, 1) && WANTED && !h_lost && h_gate -> event = kDone
    :: S(kCopying, 0) && h_lost && !s_abort && CAN_CONNECT -> connect(RESUME); s_step = 3  // Reconnect
    :: S(kCopying, 3) && HEARS(HELLO_OK) -> to_source[s_line]?_, _; s_step = 0
    :: S(kCopying, 3) -> source_hangs_up(); event = kFailed
    :: S(kCopying, 0) || S(kCopying, 1) -> event = FAIL_BECAUSE

    // Freeze
    :: S(kFreezing, 0) && g_agent == CONNECTED -> to_guard!FREEZE; s_step = 1
    :: S(kFreezing, 1) && from_guard?[OK] -> from_guard?OK; event = (s_abort -> FAIL_BECAUSE : kDone)
    :: source_up && s_stage == kFreezing -> event = FAIL_BECAUSE  // refused, no answer

    // Send: the dump, and all that it makes
    :: S(kSending, 0) && g_agent == CONNECTED -> to_guard!DUMP; s_step = 1
    :: S(kSending, 1) && from_guard?[OK] -> from_guard?OK; tell_target(STATE); event = (WANTED -> kDone : FAIL_BECAUSE)
    :: source_up && s_stage == kSending -> event = FAIL_BECAUSE

    // AwaitPrepared
    :: S(kAwaitingPrepared, 0) && WANTED && (h_prepared || M(CEDES_UNPREPARED)) -> event = kDone
    :: S(kAwaitingPrepared, 0) -> event = FAIL_BECAUSE  // an abort, a lost connection, the freeze limit

    // Cede
    :: S(kCeding, 0) && s_abort -> event = kFailed
    :: S(kCeding, 0) && !s_abort && g_agent == CONNECTED -> to_guard!CEDE; s_step = 1
    :: S(kCeding, 0) && !s_abort && g_agent != CONNECTED -> event = kUnknown
    :: S(kCeding, 1) && from_guard?[OK] -> from_guard?OK; event = kDone
    :: S(kCeding, 1) && from_guard?[NO] -> from_guard?NO; event = FAIL_BECAUSE
    :: S(kCeding, 1) && from_guard?[UNSURE] -> from_guard?UNSURE; event = (M(UNKNOWN_IS_REFUSED) -> kFailed : kUnknown)
    :: S(kCeding, 1) -> give_up_asking(); event = kUnknown  // no answer in time

    // AskGuard: the journal tells, or a guard itself that it has not ceded (nobody else could ask it to)
    :: S(kAskingGuard, 0) && (source_journal == CEDED || source_journal == DONE) -> event = kDone
    :: S(kAskingGuard, 0) && source_journal == ABORTED -> event = FAIL_BECAUSE
    :: S(kAskingGuard, 0) && source_journal == FROZEN && NEEDS_GUARD -> ensure_guard()
    :: S(kAskingGuard, 0) && GUARD_ANSWERS && G(IDLE) && g_state != CEDED && g_state != DONE && !M(ASKS_THE_JOURNAL_ALONE) ->
      event = FAIL_BECAUSE

    // Commit
    :: S(kCommitting, 0) -> tell_target(COMMIT); s_step = 1
    :: S(kCommitting, 1) && h_aborted -> event = kTargetAborted
    :: S(kCommitting, 1) && !h_aborted && h_running -> event = kDone
    :: S(kCommitting, 1) && WANTED && !h_running && (h_lost || s_line == NO_LINE) -> event = kUnknown
    :: S(kCommitting, 1) && FAULT(CRASHES) -> faults--; event = kUnknown  // RUNNING is late
    :: S(kCommitting, 1) && timeout -> event = kUnknown                   // it never comes

    // AskTarget
    :: S(kAskingTarget, 0) && CAN_CONNECT -> connect(ASK); s_step = 1
    :: S(kAskingTarget, 1) && HEARS(HELLO_OK) ->
      if
      :: to_source[s_line]?HELLO_OK, PREPARED -> event = kDone
      :: to_source[s_line]?HELLO_OK, RUNNING -> event = kDone
      :: to_source[s_line]?HELLO_OK, ABORTED -> event = kTargetAborted
      :: to_source[s_line]?HELLO_OK, OPEN ->
        if
        :: M(BELIEVES_UNWRITTEN_ABORT) -> event = kTargetAborted
        :: else -> source_hangs_up(); s_step = 2
        fi
      fi
    :: S(kAskingTarget, 1) && HEARS_ELSE(HELLO_OK) -> source_hangs_up(); s_step = 2
    :: S(kAskingTarget, 1) && cut[s_line] -> event = kUnknown
    // The pause: until something may have changed, so that it does not go round for nothing.
    :: S(kAskingTarget, 2) && target_known && !(target_up && t_stage == kAborting) -> event = kUnknown

    // TakeBack: until a guard says that it has thawed
    :: S(kTakingBack, 0) && NEEDS_GUARD -> ensure_guard()
    :: S(kTakingBack, 0) && GUARD_ANSWERS -> to_guard!TARGET_ABORTED; s_step = 1
    :: S(kTakingBack, 1) && from_guard?[OK] -> from_guard?OK; event = kDone
    :: S(kTakingBack, 1) && (from_guard?[NO] || g_agent != CONNECTED || FAULT(CRASHES)) ->
      if
      :: from_guard?[NO] -> from_guard?NO
      :: !from_guard?[NO] && g_agent != CONNECTED
      :: !from_guard?[NO] && g_agent == CONNECTED -> faults--; give_up_asking()  // no answer in time
      fi;
      event = (M(ABORTED_STAYS_FROZEN) && source_journal == ABORTED -> kDone : kUnknown)

    // AwaitFinish
    :: S(kTargetRuns, 0) && s_finish -> s_finish = false; source_hangs_up(); event = kDone

    // Kill
    :: S(kKilling, 0) && NEEDS_GUARD -> ensure_guard()
    :: S(kKilling, 0) && GUARD_ANSWERS -> to_guard!KILL; s_step = 1
    :: S(kKilling, 1) && from_guard?[OK] -> from_guard?OK; event = kDone
    :: S(kKilling, 1) && (from_guard?[NO] || g_agent != CONNECTED || FAULT(CRASHES)) ->
      if
      :: from_guard?[NO] -> from_guard?NO
      :: !from_guard?[NO] && g_agent != CONNECTED
      :: !from_guard?[NO] && g_agent == CONNECTED -> faults--; give_up_asking()
      fi;
      event = (source_journal == DONE -> kDone : kUnknown)

    // Thaw: says so to the guard, hangs up, and looks at the journal
    :: S(kAborting, 0) && g_agent == CONNECTED && nfull(to_guard) -> to_guard!THAW; s_step = 1
    :: S(kAborting, 0) -> leave_guard(); s_step = 2
    :: S(kAborting, 1) && (nempty(from_guard) || g_agent != CONNECTED) -> leave_guard(); s_step = 2
    :: S(kAborting, 2) && source_journal == OPEN && !guard_up -> write_source(ABORTED)
    :: S(kAborting, 2) && source_journal == OPEN && M(ABORTED_BESIDE_A_GUARD) -> s_step = 3  // a guard holds the lock
    :: S(kAborting, 2) && source_journal == FROZEN && !guard_up -> ensure_guard(); s_step = 0
    :: S(kAborting, 2) && source_journal == ABORTED -> s_step = 3
    :: S(kAborting, 3) ->  // TellAbortHere
      if
      :: !h_aborted && !h_lost && s_line != NO_LINE -> tell_target(ABORT); s_told = true
      :: else -> s_told = s_told || h_aborted || s_line == NO_LINE
      fi;
      source_hangs_up(); h_lost = false;
      event = kDone

    // TellAbort: may help, may not come to it
    :: S(kAborted, 0) && !s_told && CAN_CONNECT -> s_told = true; connect(ASK); s_step = 1
    :: S(kAborted, 1) && HEARS(HELLO_OK) ->
      if
      :: to_source[s_line]?[HELLO_OK, OPEN] || to_source[s_line]?[HELLO_OK, PREPARED] -> tell_target(ABORT)
      :: else
      fi;
      source_hangs_up(); s_step = 0
    :: S(kAborted, 1) && (cut[s_line] || HEARS_ELSE(HELLO_OK)) -> source_hangs_up(); s_step = 0
    fi;

    if  // Source::Run
    :: event != 0 ->
      if
      //  handover.cc        done               failed     unknown        target aborted
      ROW(kConnecting,       kCopying,          kAborting, kNowhere,      kAborting)
      ROW(kCopying,          kFreezing,         kAborting, kNowhere,      kAborting)
      ROW(kFreezing,         kSending,          kAborting, kNowhere,      kAborting)
      ROW(kSending,          kAwaitingPrepared, kAborting, kNowhere,      kAborting)
      ROW(kAwaitingPrepared, kCeding,           kAborting, kNowhere,      kAborting)
      ROW(kCeding,           kCommitting,       kAborting, kAskingGuard,  CEDING_ABORTED)
      ROW(kAskingGuard,      kCommitting,       kAborting, kAskingGuard,  CEDING_ABORTED)
      ROW(kCommitting,       kTargetRuns,       kNowhere,  kAskingTarget, kTakingBack)
      ROW(kAskingTarget,     kCommitting,       kNowhere,  kAskingTarget, kTakingBack)
      ROW(kTakingBack,       kAborted,          kNowhere,  kTakingBack,   kNowhere)
      ROW(kTargetRuns,       kKilling,          kNowhere,  kNowhere,      kNowhere)
      ROW(kKilling,          kDone,             kNowhere,  kTargetRuns,   kNowhere)
      ROW(kAborting,         kAborted,          kNowhere,  kAborting,     kNowhere)
      fi;
      assert(s_stage != kNowhere);  // "no such transition"
      s_step = 0; event = 0;
      h_gate = false; h_prepared = false;  // what nobody looks at any more is not a state of its own
      s_abort = s_abort && s_stage != kAborting && s_stage != kCommitting
    :: else
    fi }
  od
}

// ------------------------------------------------------------------------------------------ the target agent (target.cc)

inline target_ends() {
  target_up = false;
  if
  :: t_holds[0] -> target_hangs_up(0)
  :: else
  fi;
  if
  :: t_holds[1] -> target_hangs_up(1)
  :: else
  fi;
  t_step = 0; t_line = NO_LINE; t_bringing = NO_LINE; t_begun = true; t_cut = false;
  t_armed = false; t_at_gate = false; t_state = false; t_commit = false; t_abort = false
}

active proctype TargetAgent() {
  mtype event;
end:
  do :: atomic {
    if
    // Recover
    :: !target_up && !target_gone ->
      target_up = true;
      if
      :: target_journal == OPEN -> t_stage = kAborting; t_abort = true
      :: target_journal == PREPARED && !M(RUNS_AFTER_RESTART) -> t_stage = kPrepared; t_step = 1
      :: target_journal == PREPARED && M(RUNS_AFTER_RESTART) -> t_stage = kCommitting
      :: target_journal == RUNNING -> t_stage = (target_thawed && !M(THAWS_AGAIN) -> kRunning : kCommitting)
      :: target_journal == ABORTED -> t_stage = kAborted
      fi

    // RestoreAll: a `create` waits, the restore stands at its gate, all of the state has come
    :: T(kRestoring, 0) && t_armed && !t_at_gate && !t_abort -> t_at_gate = true; tell_source(t_line, AT_GATE, 0)
    :: T(kRestoring, 0) && t_at_gate && t_state && !t_abort -> copy = STILL; event = kDone
    :: T(kRestoring, 0) -> t_abort = true; event = kFailed  // an abort, a failure, a deadline

    // Prepare
    :: T(kPreparing, 0) && copy == STILL && !M(TELLS_UNWRITTEN_PREPARED) -> write_target(PREPARED); event = kDone
    :: T(kPreparing, 0) && copy == STILL && M(TELLS_UNWRITTEN_PREPARED) -> event = kDone
    :: T(kPreparing, 0) && copy == STILL && FAULT(DISKS) ->  // written, and an error says that it was not
      faults--; write_target(PREPARED); t_abort = true; event = kFailed
    :: T(kPreparing, 0) -> t_abort = true; event = kFailed

    // AwaitVerdict
    :: T(kPrepared, 0) -> tell_source(t_line, PREPARED, 0); t_step = 1
    :: T(kPrepared, 1) && target_journal == OPEN -> write_target(PREPARED)  // TELLS_UNWRITTEN_PREPARED alone
    :: T(kPrepared, 1) && (t_abort || copy != STILL) -> t_abort = true; event = kFailed
    :: T(kPrepared, 1) && !t_abort && copy == STILL && t_commit && target_journal == PREPARED -> event = kCommit

    // Commit
    :: T(kCommitting, 0) ->
      if
      :: M(THAWS_BEFORE_RUNNING) -> let_copy_run()
      :: M(SPENDS_BEFORE_RUNNING) -> permit = SPENT
      :: else
      fi;
      t_step = 1
    :: T(kCommitting, 1) -> write_target(RUNNING); t_step = 2
    :: T(kCommitting, 2) -> permit = SPENT; t_step = 3
    :: T(kCommitting, 3) ->
      if
      :: copy == STILL || copy == TAKEN -> let_copy_run()
      :: else  // dead before it ran: kubelet starts it afresh
      fi;
      t_step = 4
    :: T(kCommitting, 4) -> tell_source(t_line, RUNNING, 0); t_step = 5
    :: T(kCommitting, 5) -> target_thawed = true; t_commit = false; event = kDone

    // EndCopy
    :: T(kAborting, 0) ->
      permit = ABORTED;
      if
      :: M(TELLS_UNWRITTEN_ABORT) -> tell_source(t_line, ABORT, 0)
      :: else
      fi;
      t_step = 1
    :: T(kAborting, 1) -> copy = (copy == ABSENT || M(DESTROYS_LAST) -> copy : DEAD); t_step = 2
    :: T(kAborting, 2) -> write_target(ABORTED); t_step = 3
    :: T(kAborting, 2) && FAULT(DISKS) -> faults--; event = kFailed
    :: T(kAborting, 3) ->
      if
      :: !M(TELLS_UNWRITTEN_ABORT) -> tell_source(t_line, ABORT, 0)
      :: else
      fi;
      t_commit = false; event = kDone
    fi;

    if  // Target::Run; handover.cc, Next(TargetStage)
    :: event != 0 ->
      if
      :: t_stage == kRestoring -> t_stage = (event == kDone -> kPreparing : (event == kFailed -> kAborting : kNowhere))
      :: t_stage == kPreparing -> t_stage = (event == kDone -> kPrepared : (event == kFailed -> kAborting : kNowhere))
      :: t_stage == kPrepared -> t_stage = (event == kCommit -> kCommitting : (event == kFailed -> kAborting : kNowhere))
      :: t_stage == kCommitting -> t_stage = (event == kDone -> kRunning : kNowhere)
      :: t_stage == kAborting -> t_stage = (event == kDone -> kAborted : (event == kFailed -> kAborting : kNowhere))
      fi;
      assert(t_stage != kNowhere);
      t_step = 0; event = 0;
      t_armed = false; t_at_gate = false
    :: else
    fi }
  od
}

// handover.cc, StateOf(TargetStage)
#define T_STATE (t_stage == kPrepared || t_stage == kCommitting -> PREPARED : \
                 (t_stage == kRunning -> RUNNING : (t_stage == kAborted -> ABORTED : OPEN)))
#define T_MAY_ABORT (target_up && (t_stage == kRestoring || t_stage == kPreparing || t_stage == kPrepared))

// Target::Serve, a thread for each connection (target_stream.cc).
proctype Serve(byte l) {
end:
  do :: atomic {
    if
    :: t_holds[l] && to_target[l]?[HELLO, BEGIN] ->
      to_target[l]?_, _;
      if
      :: target_known && !t_begun && t_stage == kRestoring && !t_abort ->
        t_begun = true; t_bringing = l; t_line = l; tell_source(l, HELLO_OK, OPEN)
      :: else -> tell_source(l, REFUSED, 0); target_hangs_up(l)
      fi
    :: t_holds[l] && to_target[l]?[HELLO, RESUME] ->
      to_target[l]?_, _;
      if
      :: t_bringing != NO_LINE && t_bringing != l ->  // its end was not seen yet
        target_hangs_up(t_bringing); t_bringing = NO_LINE; t_cut = true
      :: else
      fi;
      if
      :: target_known && t_cut && !t_armed && t_stage == kRestoring && !t_abort ->
        t_cut = false; t_bringing = l; t_line = l; tell_source(l, HELLO_OK, OPEN)
      :: else -> t_abort = t_abort || T_MAY_ABORT; tell_source(l, REFUSED, 0); target_hangs_up(l)
      fi
    :: t_holds[l] && to_target[l]?[HELLO, ASK] ->
      to_target[l]?_, _;
      if
      :: target_known -> t_line = l; tell_source(l, HELLO_OK, T_STATE)
      :: else -> tell_source(l, REFUSED, 0); target_hangs_up(l)  // Operations::ServeMigration
      fi
    // ReceiveState
    :: t_holds[l] && to_target[l]?[ARMED, _] -> to_target[l]?_, _; t_armed = true
    :: t_holds[l] && to_target[l]?[STATE, _] -> to_target[l]?_, _; t_state = true
    :: t_holds[l] && t_abort && l == t_bringing && !t_state -> t_bringing = NO_LINE; target_hangs_up(l)
    // ServeVerdict
    :: t_holds[l] && to_target[l]?[COMMIT, _] ->
      to_target[l]?_, _;
      if
      :: t_stage == kRunning -> tell_source(l, RUNNING, 0)
      :: else -> t_commit = (t_stage != kAborted)
      fi
    :: t_holds[l] && to_target[l]?[ABORT, _] ->
      to_target[l]?_, _;
      assert(t_stage != kCommitting && t_stage != kRunning);  // "the source aborted what it had ceded"
      t_abort = t_abort || T_MAY_ABORT
    // The end of the connection, seen before or after the last that was sent
    :: t_holds[l] && cut[l] ->
      if
      :: to_target[l]?[HELLO, _]  // nothing was heard on it
      :: else ->
        if
        :: t_stage == kRestoring && l == t_bringing && !t_armed && !t_abort -> t_cut = true  // AwaitResumption
        :: t_stage == kRestoring && (l != t_bringing || t_armed) -> t_abort = true
        :: else
        fi
      fi;
      t_bringing = (l == t_bringing -> NO_LINE : t_bringing);
      target_hangs_up(l)
    fi }
  od
}

// ------------------------------------------------------------ kubelet on the target's node, and the controller's duties

active proctype Kubelet() {
end:
  do
  :: atomic { copy == DEAD && permit == SPENT -> let_copy_run() }  // an ordinary, fresh start
  od
}

active proctype Controller() {
end:
  do :: atomic {
    if
    // decide_finishing.cc
    :: S(kTargetRuns, 0) && !s_finish -> s_finish = true
    :: S(kCommitting, 1) && M(KILLS_WHEN_CEDED) -> s_stage = kKilling; s_step = 0
    // decide_ending.cc: the target is told; ForgetSides
    :: source_up && s_stage == kAborted && T_MAY_ABORT && target_known && !t_abort -> t_abort = true
    :: target_up && target_known && (t_stage == kRunning || t_stage == kAborted) &&
       source_up && (s_stage == kDone || s_stage == kAborted) -> target_known = false
    :: target_up && target_known && t_stage == kAborted && M(FORGETS_UNHEARD_ABORTED) -> target_known = false
    fi }
  od
}

// --------------------------------------------------------------------------------- what nobody promised not to happen

#define S_MAY_ABORT (source_up && (s_stage == kConnecting || s_stage == kCopying || s_stage == kFreezing || \
                                   s_stage == kSending || s_stage == kAwaitingPrepared))

active proctype Environment() {
  do
  // Somebody wants an end: the Migration or a pod is deleted, spec.timeout passes.
  :: atomic { S_MAY_ABORT && !s_abort -> s_abort = true }
  :: atomic { T_MAY_ABORT && target_known && !t_abort -> t_abort = true }
  // The moved pod is moved on.
  :: atomic { target_up && t_stage == kRunning && copy == RUNS -> copy = TAKEN }

  :: atomic { FAULT(CRASHES) && source_up -> faults--; source_ends() }
  :: atomic { FAULT(CRASHES) && target_up -> faults--; target_ends() }
  :: atomic { FAULT(CRASHES) && guard_up && !source_gone -> faults--; guard_ends() }
  :: atomic { FAULT(CRASHES) && G(IDLE) && g_state == OPEN && !g_gone -> faults--; g_gone = true }  // SIGTERM
  :: atomic { FAULT(CRASHES) && s_holds[0] && !cut[0] -> faults--; cut[0] = true }
  :: atomic { FAULT(CRASHES) && s_holds[1] && !cut[1] -> faults--; cut[1] = true }
  :: atomic { FAULT(CRASHES) && (copy == STILL || copy == RUNS) -> faults--; copy = DEAD }

  :: atomic { FAULT(REBOOTS) && source != DEAD ->
      faults--;
      source = DEAD; source_rebooted = true;
      guard_ends();
      source_ends() }
  :: atomic { FAULT(REBOOTS) && target_up ->
      faults--;
      copy = (copy == STILL || copy == RUNS -> DEAD : copy);
      target_ends() }

  // An agent that stays away, and a guard that was killed while the pod stood still: only a person can help there.
  :: atomic { FAULT(LOSSES) && source_up && (guard_up || source_journal != FROZEN) ->
      faults--; source_ends(); source_gone = true }
  :: atomic { FAULT(LOSSES) && target_up -> faults--; target_ends(); target_gone = true }
  :: break
  od;
  faults = 0
}

// ------------------------------------------------------------------------------------------------------ how it may end

#define SOURCE_GOES_ON (source == RUNS || source_rebooted)
#define COPY_GOES_ON (copy == RUNS || copy == TAKEN)

// When nobody can do anything any more. Together with the absence of circles: so it ends, always.
active proctype Judge() {
end:
  atomic {
    timeout && !S(kCommitting, 1) ->
    assert(ceded || SOURCE_GOES_ON);  // I6, also when an agent never comes back
    if
    :: source_gone
    :: target_gone && !source_gone -> assert(ceded || s_stage == kAborted)
    :: !target_gone && !source_gone ->  // I2, and both sides know how it ended
      assert(s_stage == kDone || s_stage == kAborted);
      assert(t_stage == kRunning || t_stage == kAborted);
      assert((s_stage == kDone) == (t_stage == kRunning));
      if
      :: s_stage == kDone ->
        assert(source_journal == DONE && target_journal == RUNNING);
        assert(source == DEAD && COPY_GOES_ON)
      :: s_stage == kAborted ->
        assert(source_journal == ABORTED && target_journal == ABORTED);
        assert(SOURCE_GOES_ON && (copy == ABSENT || copy == DEAD))
      fi
    fi
  }
}

init {
  atomic { run Serve(0); run Serve(1) }
}
