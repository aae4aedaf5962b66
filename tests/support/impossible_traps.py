"""Traps of the old system that cannot happen here: the sentence why, and a test that shows it."""

CANNOT: dict[int, str] = {
    2: "A tag is looked for before the newest done run, for `latest` and for no other name: "
    "unit/resolve/test_resolve.py::test_latest_is_the_tag_of_that_name_or_else_the_newest_run",
    5: "A tag with a workflow takes that workflow's jobs alone, a tag by itself what the run was "
    "asked for: unit/resolve/test_resolve.py::"
    "test_a_tag_without_a_workflow_takes_what_was_asked_for",
    6: "A tag names a run and keeps its artifacts reachable, also where the run's record is old: "
    "unit/publishing/test_bounds.py::"
    "test_runs_that_a_tag_names_outlive_others_and_are_bounded_too",
    7: "A tag counts once its run ended; until then whoever depends on it is told which run it is: "
    "unit/resolve/test_resolve.py::test_a_tag_of_a_run_that_goes_on_is_refused_in_words",
    8: "Of two names the one that is a run is the run: "
    "e2e/test_cli_runs.py::test_tags_in_both_orders_and_taken_back",
    9: "Without a name the tag is the run's own, and either order is understood: "
    "corpus/test_section_3_2.py::test_3_2_24_tags_in_both_orders_and_none",
    10: "Done runs are ordered by when they were submitted, others never count: "
    "unit/resolve/test_resolve.py::test_the_newest_done_run_of_a_workflow_is_taken",
    11: "The key of a result is of everything that was read, and of nothing that was not: "
    "unit/reuse/test_key.py::test_a_change_anywhere_changes_the_key",
    12: "Who knows the same records finds the same run, ties broken by id: "
    "unit/resolve/test_resolve.py::test_peers_that_heard_of_the_same_runs_in_any_order_agree",
    15: "A repository is part of what is looked for: "
    "unit/resolve/test_resolve.py::test_another_repository_is_another_world",
    16: "The run ends with the dependency that failed, and names it: "
    "unit/run/test_run.py::test_a_failed_dependency_ends_the_run_and_is_named",
    17: "What a failed job kept stays partial: e2e/test_live_artifacts.py::"
    "test_a_job_that_does_not_end_well_keeps_what_is_partial_and_nobody_depends_on_it",
    18: "Artifacts of every job are saved while it runs, with a mount and without: "
    "e2e/test_live_artifacts.py::"
    "test_what_a_job_writes_is_seen_within_five_seconds_and_copied_as_partial",
    20: "Inputs are copied in, and what lies at the path of an own artifact is where that artifact "
    "begins, so nothing hides anything",
    21: "Inputs merge in the order in which they are declared, and what cannot merge is refused: "
    "unit/jobs/test_clashing.py::test_a_file_and_a_folder_of_one_name_are_refused_with_both_named",
    22: "An artifact is kept under its path below the working directory and laid in below the "
    "consumer's, wherever the producer worked",
    23: "Folders of artifacts are made before the commands start, so none is missing at the end",
    24: "Trees are compared entry by entry with links, modes and digests: "
    "e2e/test_fidelity.py::test_trees_are_the_same_from_an_agent_to_the_laptop_to_an_agent",
    26: "Artifacts are chunks by content; an agent that has them fetches nothing: "
    "unit/driver/test_driver.py::test_a_second_copy_of_artifacts_is_brought_here_and_told",
    27: "A job that goes on finds what it had kept, and one that is cleared finds nothing: "
    "unit/cli/test_again.py::test_a_stopped_job_finds_what_it_had_kept_last_of_all",
    47: "It is about machines whose owner may take them back, with cards or without: "
    "corpus/test_section_4_4.py::test_a_job_whose_machine_is_taken_back_goes_on_elsewhere_if_it_may",
    50: "An agent counts what its own control group leaves it: "
    "unit/inventory/test_limits.py::test_a_container_sees_its_own_group_as_the_mounts_top",
    51: "Cards are read again all the time, not at registration: "
    "unit/inventory/test_cards.py::test_a_lost_card_is_left_out_and_comes_back",
    52: "A job is granted cards by their ids and sees no others: "
    "unit/executor/test_environment.py::test_a_job_sees_the_cards_it_was_granted_and_no_others",
    54: "No diff is made: the job gets the commit and the tree as they are here, so the base need "
    "not be anywhere else: unit/code/test_capture.py::test_a_rewritten_history_is_no_obstacle",
    55: "Untracked files that are not ignored travel too: "
    "unit/code/test_capture.py::test_changes_of_every_kind_arrive",
    56: "No diff is made; files travel as bytes: "
    "unit/code/test_capture.py::test_changes_of_every_kind_arrive",
    57: "The remote is never asked, and every odd state of a repository has its test: "
    "unit/code/test_kinds_of_repository.py::test_a_detached_head_stays_detached",
    58: "git itself decides what is ignored, also outside of a repository: "
    "unit/code/test_kinds_of_repository.py::test_a_folder_that_is_no_repository_honours_ignore_files",
    59: "The one limit is 2 GiB, and the largest files are named: "
    "unit/code/test_capture.py::test_too_much_code_is_refused_with_the_biggest_files",
    60: "The job has a real checkout that is clean where ours is: "
    "unit/code/test_capture.py::test_a_clean_checkout_is_clean_in_the_job",
    61: "Nobody but the laptop needs credentials of the code, and addresses travel without them: "
    "unit/code/test_capture.py::test_remotes_are_named_without_credentials",
    63: "Each verb has a table of its own flags, and `stop -a RUN` aborts: "
    "e2e/test_cli_runs.py::test_stop_with_a_name_and_the_old_flag_aborts",
    68: "A name is a run, a job's id or a workflow of a run, and all of the log is told: "
    "corpus/test_section_3_2.py::test_3_2_19_logs_of_a_run_a_job_and_a_workflow",
    69: "Words of the verb come first, then runs, jobs and tags: "
    "corpus/test_section_3_2.py::test_3_2_28_artifacts_are_listed_and_downloaded",
    71: "States of old are words of ours in lower case, and scripts read JSON: "
    "corpus/test_section_3_4.py::test_3_4_1_states_of_the_first_year_are_words_of_ours",
    72: "An attached run ends with the job's exit code: "
    "e2e/test_cli_runs.py::test_the_exit_code_is_the_jobs",
    73: "A pipe is never asked anything: "
    "unit/cli/test_interrupts.py::test_without_a_terminal_it_stops_then_aborts",
    74: "A stop that comes too late changes nothing: "
    "unit/driver/test_stops.py::test_stop_after_the_end_changes_nothing",
    75: "Commands are the lines of one script with a check after each, not a chain of &&: "
    "unit/test_shell.py::test_what_is_wrong_in_a_command_stays_in_it",
    77: "The three cases are three tests: unit/executor/test_container.py::"
    "test_an_entrypoint_alone_replaces_the_image_s_command_too",
    84: "The log is a journal of bytes with offsets; its tail is read to the end before a job is "
    "over: unit/jobs/test_chronicle.py::test_what_closes_waits_for_the_log",
    85: "A stop while artifacts are saved is ignored, also after a restart: unit/jobs/"
    "test_attempt.py::test_a_stop_that_came_while_saving_is_still_ignored_after_a_restart",
    86: "Each has a reason of its own: unit/executor/test_process.py::"
    "test_a_sigkill_of_unknown_origin_says_that_memory_may_be_why",
    87: "Drivers have epochs, and what comes with a lower one is refused: "
    "unit/ledger/test_ledger.py::test_a_lower_epoch_is_refused",
    88: "Silence alone ends nothing, and who comes back is told what happened: "
    "e2e/test_partitions.py::test_two_halves_that_heal_are_alike_within_ten_seconds_and_nothing_is_lost",
    89: "An agent of one's own stays; only a private one leaves when it is idle, and none turns a "
    "machine off: "
    "unit/agent/test_settings.py::test_a_private_agent_leaves_when_idle_and_others_stay",
    90: "A container runs as the person whose agent it is, so its files are that person's; what it "
    "worked in goes with the job: "
    "unit/jobs/test_supervisor.py::test_what_a_failed_job_worked_in_goes_unless_it_is_to_stay",
    91: "All nodes are held before one is awarded, and one that fails ends the others: "
    "unit/auction/test_gang.py::"
    "test_of_many_gangs_every_one_starts_whole_and_none_waits_for_another_for_ever",
    94: "Values of secrets are in no record and no argument, and come last: "
    "unit/jobs/test_records.py::test_secret_values_have_no_place_in_the_database",
    96: "Each record has one writer; of statements about one tag the newest counts at every peer: "
    "unit/jobs/test_records.py::test_the_newest_statement_about_a_tag_wins_in_any_order",
    97: "Records and the ends of logs are told to all: "
    "unit/publishing/test_publishing.py::test_the_end_of_a_log_is_kept_when_its_job_ended",
    98: "A detached chain is driven by an agent: "
    "e2e/test_cli_runs.py::test_a_detached_chain_goes_on_without_us",
    99: "Runs are ordered by the submitter's own time and then by id, and a clock that is off is "
    "named: e2e/test_doctor.py::test_a_clock_that_is_off_is_named_by_majority",
    101: "Secrets go to the agent of the job and to nobody who relays: "
    "e2e/test_cli_secrets.py::test_values_are_the_owner_s_alone_and_of_one_repository",
    102: "The tests of runs run on one machine that knows no other: "
    "e2e/test_cli_runs.py::test_init_and_then_hello_with_a_variable",
}
