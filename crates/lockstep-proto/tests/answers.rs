//! Rings that work: every split gives the single process's answer, signed by everybody.

mod support;

use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_exact::sample::Finish;
use lockstep_proto::client::{Ask, Client, ClientError};
use lockstep_proto::failure::Refusal;
use lockstep_proto::frame::{Frame, FrameError, ToServer};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_testing::ring::{Ring, Weather};
use lockstep_verify::limits as proof;
use lockstep_verify::statement::tokens_digest;
use support::{
    SECOND, ask, ask_long, nothing_is_left, prompt, receipt_of, ring, ring_with, under_way,
};

#[test]
fn rings_of_one_to_five_stages_give_the_single_process_answer() {
    for stages in 1..=5 {
        for prompt_len in [1, 2, 127, 128, 129, 700] {
            let mut ring = ring(stages);
            let request = ask(&mut ring, 0, prompt_len, 12);
            assert!(ring.run_to_the_end(60 * SECOND), "{stages} stages, prompt {prompt_len}");
            let receipt = receipt_of(&ring, 0, &request);
            assert_eq!(receipt.segments.len(), stages);
            let positions: u32 = receipt.steps.iter().map(|step| step.count).sum();
            assert_eq!(positions, prompt_len + receipt.answer.len() as u32 - 1);
            assert_eq!(receipt.head.tokens, tokens_digest(&receipt.answer));
            nothing_is_left(&mut ring, 0..stages);
        }
    }
}

#[test]
fn roots_of_layers_do_not_depend_on_the_split() {
    let roots = |stages: usize| {
        let mut ring = ring(stages);
        let request = ask(&mut ring, 0, 300, 8);
        assert!(ring.run_to_the_end(60 * SECOND));
        let receipt = receipt_of(&ring, 0, &request);
        receipt.segments.into_iter().flat_map(|segment| segment.layers).collect::<Vec<_>>()
    };
    let whole = roots(1);
    assert_eq!(whole.len(), LAYERS as usize);
    for stages in 2..=5 {
        assert_eq!(roots(stages), whole, "{stages} stages");
    }
}

#[test]
fn many_sessions_at_once_get_the_answers_they_get_alone() {
    for stages in [1, 2, 3, 5] {
        let mut ring = ring(stages);
        ring.weather = Weather { latency_us: 300, jitter_us: 900, item_us: 500 };
        let mut requests = Vec::new();
        for client in 0..20 {
            requests.push(ask(&mut ring, client, 1 + 37 * client as u32, 10));
            ring.run_for(700);
        }
        assert!(under_way(&ring, 0..1) > 10, "they overlap");
        assert!(ring.run_to_the_end(60 * SECOND));
        for (client, request) in requests.iter().enumerate() {
            receipt_of(&ring, client, request);
        }
        nothing_is_left(&mut ring, 0..stages);
    }
}

#[test]
fn a_long_prompt_is_in_every_stage_at_once() {
    let time = |stages: usize| {
        let mut ring = ring(stages);
        ring.weather = Weather { latency_us: 10, jitter_us: 0, item_us: 10_000 };
        let request = ask(&mut ring, 0, 128 * 12, 1);
        let start = ring.now();
        assert!(ring.run_to_the_end(60 * SECOND));
        receipt_of(&ring, 0, &request);
        ring.ended(0).unwrap().since(start)
    };
    // Twelve chunks of one unit each and some way to go, not twelve times the number of stages.
    assert!(time(1) >= 120_000);
    assert!(time(4) < 4 * 120_000 / 2, "{} us", time(4));
}

#[test]
fn somebodys_long_prompt_does_not_stop_anybodys_tokens() {
    let mut ring = ring(2);
    ring.weather = Weather { latency_us: 10, jitter_us: 0, item_us: 1_000 };
    let first = ask(&mut ring, 0, 5, 200);
    assert!(ring.run_until(SECOND, |ring| ring.tokens(0).len() > 3));
    let second = ask(&mut ring, 1, 1_900, 2);
    let before = ring.tokens(0).len();
    assert!(ring.run_until(SECOND, |ring| !ring.tokens(1).is_empty()));
    // Fifteen chunks went by; after each of them the other session had its turn.
    assert!(ring.tokens(0).len() >= before + 5, "{} tokens", ring.tokens(0).len() - before);
    assert!(ring.run_to_the_end(60 * SECOND));
    receipt_of(&ring, 0, &first);
    receipt_of(&ring, 1, &second);
}

#[test]
fn an_answer_ends_with_everybodys_signature_where_the_head_gives_no_token_and_only_there() {
    let (prompt_len, tokens) = (300, 6);
    let mut answers = BTreeMap::new();
    for stages in 1..=5 {
        for position in [0, 130, 255, 299, 300, 302] {
            for layer in [0, 3, 5, LAYERS] {
                let mut ring = ring(stages);
                let cell = (position, layer);
                for server in 0..stages {
                    ring.executor(server).unwrap().overflow = Some(cell);
                }
                let request = ask(&mut ring, 0, prompt_len, tokens);
                assert!(ring.run_to_the_end(60 * SECOND), "{stages} stages, {cell:?}");
                let receipt = match ring.outcome(0) {
                    Some(Ok(receipt)) => receipt.clone(),
                    other => panic!("{stages} stages, {cell:?}: {other:?}"),
                };
                if position < prompt_len - 1 {
                    // The head never reads that position: a marker there is data.
                    let got = (receipt.answer.clone(), receipt.finish);
                    assert_ne!(receipt.finish, Finish::Overflow);
                    assert_eq!(answers.entry(cell).or_insert_with(|| got.clone()), &got);
                } else {
                    let told = (position + 1).saturating_sub(prompt_len) as usize;
                    assert_eq!(
                        receipt.answer,
                        HashModel::whole_answer(&request).0[..told],
                        "{cell:?}"
                    );
                    assert_eq!(receipt.finish, Finish::Overflow);
                    assert_eq!(receipt.head_marks.len(), told + 1);
                }
                assert_eq!(receipt.segments.len(), stages);
                nothing_is_left(&mut ring, 0..stages);
            }
        }
    }
    assert_eq!(answers.len(), 3 * 4);
}

#[test]
fn a_route_may_use_a_part_of_what_a_server_holds() {
    let mut ring = ring(3);
    let mut route = ring.route();
    route[0].end -= 1;
    route[1].first -= 1;
    // Server 1 does not hold that layer.
    let request = ring.request(0, prompt(9), 3);
    ring.ask(request, route).unwrap();
    assert!(ring.run_to_the_end(10 * SECOND));
    assert_eq!(support::error_of(&ring, 0).reported(), Some(1));
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn a_full_server_has_requests_wait_and_a_full_executor_refuses_and_recovers() {
    let capacity = Capacity { sessions: 2, ..Capacity::default() };
    let mut ring = ring_with(1, 1, capacity);
    let requests: Vec<_> = (0..3).map(|client| ask(&mut ring, client, 50, 5)).collect();
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &requests[0]);
    receipt_of(&ring, 1, &requests[1]);
    // It waited for a place.
    receipt_of(&ring, 2, &requests[2]);
    let request = ask(&mut ring, 3, 50, 5);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 3, &request);
    nothing_is_left(&mut ring, 0..1);

    let mut ring = support::ring(3);
    ring.executor(1).unwrap().room = Some(0);
    ask(&mut ring, 0, 50, 5);
    assert!(ring.run_to_the_end(10 * SECOND));
    let error = support::error_of(&ring, 0);
    assert_eq!(error.reported(), Some(1));
    assert_eq!(
        error.to_string(),
        "stage 0 reports: stage 1: refused: there is no memory for a session of this length now"
    );
    ring.executor(1).unwrap().room = None;
    let request = ask(&mut ring, 1, 50, 5);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 1, &request);
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn sessions_take_pages_for_all_their_positions_and_the_rest_is_free() {
    // Two layers a stage: two pages for each 256 positions.
    let capacity = Capacity { kv_pages: 5, ..Capacity::default() };
    let mut ring = ring_with(1, 3, capacity);
    let free = |ring: &Ring<HashModel>, server| ring.server(server).unwrap().status();
    let refused = "stage 0 refused: there is no memory for a session of this length now";
    ask(&mut ring, 0, 600, 5);
    assert!(ring.run_to_the_end(10 * SECOND));
    assert_eq!(support::error_of(&ring, 0).to_string(), refused, "three pages of each layer");

    let long = ask_long(&mut ring, 1, 200, 100);
    assert!(ring.run_until(SECOND, |ring| !ring.tokens(1).is_empty()));
    for server in 0..3 {
        let status = free(&ring, server);
        assert_eq!((status.kv_pages_free, status.takes_sessions()), (1, false));
    }
    let short = ask(&mut ring, 2, 5, 5);
    assert!(ring.run_until(SECOND, |ring| ring.server(0).unwrap().waiting() == 1));
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 1, &long);
    receipt_of(&ring, 2, &short);
    assert_eq!(free(&ring, 1).kv_pages_free, 5, "a finished session takes none");

    ask_long(&mut ring, 3, 200, 100);
    ring.run_for(20_000);
    ring.cancel(3);
    ring.run_for(SECOND);
    let last = ask(&mut ring, 4, 200, 56);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 4, &last);
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn pages_of_a_session_that_was_cut_off_are_free_when_the_executor_has_dropped_them() {
    let capacity = Capacity { kv_pages: 6, ..Capacity::default() };
    let mut ring = ring_with(1, 1, capacity);
    ring.weather.item_us = SECOND;
    ask(&mut ring, 0, 5, 5);
    ring.run_for(SECOND / 2);
    ring.cancel(0);
    ring.run_for(1_000);
    let status = ring.server(0).unwrap().status();
    assert_eq!((status.sessions, status.kv_pages_free), (0, 0), "a job is under way");
    ring.run_for(3 * SECOND);
    assert_eq!(ring.server(0).unwrap().status().kv_pages_free, 6);
    nothing_is_left(&mut ring, 0..1);
}

#[test]
fn a_server_tells_its_status_and_whether_it_takes_sessions() {
    let mut ring = ring(2);
    ask(&mut ring, 0, 5, 3);
    ring.run_for(1_000);
    let status = ring.server(1).unwrap().status();
    assert_eq!((status.first, status.end, status.head, status.sessions), (3, 6, false, 1));
    assert!(status.takes_sessions());
    assert!(ToServer::Status.to_wire().unwrap().len() == limits::LENGTH_BYTES + 1);
    assert!(ring.run_to_the_end(10 * SECOND));
}

#[test]
fn a_request_that_no_frame_holds_or_no_server_reads_is_an_error_before_anything_is_sent() {
    let ring = ring(2);
    let ask = |adapters: usize, address: usize| {
        let mut request = ring.request(0, prompt(5), 3);
        request.adapters = vec![Digest::ZERO; adapters];
        let addresses = vec!["a".repeat(address), String::new()];
        let ask = Ask { request, route: ring.route(), addresses };
        let key = Ring::<HashModel>::client_key(0);
        Client::new(ring.now(), ask, &key, &model(), vocabulary()).map(drop)
    };
    assert_eq!(ask(0, proof::ADDRESS_BYTES), Ok(()));
    // A longer address is read by nobody: whoever got it would close the link and be blamed.
    let unreadable = ClientError::Request(Refusal::RouteInvalid);
    assert_eq!(ask(0, proof::ADDRESS_BYTES + 1), Err(unreadable));
    let (many, limit) = (limits::TO_SERVER_BYTES / 32, limits::TO_SERVER_BYTES);
    let error = ask(many, 0).unwrap_err();
    let ClientError::TooLong(FrameError::TooLong { got, limit: most }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*most, *got > limit), (limit, true));
    assert_eq!(error.stage(), None, "it is nobody's fault");
    assert!(error.to_string().contains("cannot be sent"), "{error}");
}
