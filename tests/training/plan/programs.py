"""Small programs in the notation of XLA's TPU compiler, as `compiled.as_text()` gives it."""

# Twelve layers, each with an all-gather of weights, a product, and a reduce-scatter of gradients; one all-reduce after.
LAYERS = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[12,384,768]{2,1,0})->f32[]}

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(256)} parameter(0)
  %y = f32[]{:T(256)} parameter(1)
  ROOT %add.2 = f32[]{:T(256)} add(%x, %y)
}

%fused_computation.1 (param_0: f32[12,384,768], param_1: s32[]) -> bf16[384,768] {
  %param_0 = f32[12,384,768]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %constant.9 = s32[]{:T(128)} constant(0)
  %dynamic-slice.1 = f32[1,384,768]{2,1,0:T(8,128)} dynamic-slice(%param_0, %param_1, %constant.9, %constant.9)
  %bitcast.1 = f32[384,768]{1,0:T(8,128)} bitcast(%dynamic-slice.1)
  ROOT %convert.1 = bf16[384,768]{1,0:T(8,128)(2,1)} convert(%bitcast.1)
}

%all-reduce-scatter.1 (input.1: bf16[768,768]) -> bf16[384,768] {
  %input.1 = bf16[768,768]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.7 = bf16[768,768]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=7, replica_groups={{0,1},{2,3}}, \
use_global_device_ids=true, to_apply=%add.1
  %constant.4 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.2 = bf16[384,768]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.7, %constant.4, %constant.4)
}

%body.1 (carry: (s32[], f32[12,384,768], bf16[64,768])) -> (s32[], f32[12,384,768], bf16[64,768]) {
  %carry = (s32[]{:T(128)}, f32[12,384,768]{2,1,0:T(8,128)}, bf16[64,768]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %weights = f32[12,384,768]{2,1,0:T(8,128)} get-tuple-element(%carry), index=1
  %hidden = bf16[64,768]{1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=2
  %fusion.1 = bf16[384,768]{1,0:T(8,128)(2,1)} fusion(%weights, %i), kind=kLoop, calls=%fused_computation.1
  %all-gather.1 = bf16[768,768]{1,0:T(8,128)(2,1)} all-gather(%fusion.1), channel_id=1, \
replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_0'}, dimensions={0}, \
use_global_device_ids=true, metadata={op_name="jit(_train_step)/jvp(Metro)/encoder/while/body/closed_call/mlp/wi/dot"}
  %convolution.1 = bf16[64,768]{1,0:T(8,128)(2,1)} convolution(%hidden, %all-gather.1), dim_labels=bf_io->bf
  %fusion.2 = bf16[384,768]{1,0:T(8,128)(2,1)} fusion(%all-gather.1), kind=kCustom, calls=%all-reduce-scatter.1
  %constant.2 = s32[]{:T(128)} constant(1)
  %add.3 = s32[]{:T(128)} add(%i, %constant.2)
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[12,384,768]{2,1,0:T(8,128)}, bf16[64,768]{1,0:T(8,128)(2,1)}) tuple(%add.3, \
%weights, /*index=2*/%convolution.1)
}

%condition.1 (carry.1: (s32[], f32[12,384,768], bf16[64,768])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(12)
  %carry.1 = (s32[]{:T(128)}, f32[12,384,768]{2,1,0:T(8,128)}, bf16[64,768]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %constant.3), direction=LT
}

ENTRY %main.9 (param.1: f32[12,384,768], param.2: bf16[64,768]) -> f32[1000] {
  %param.1 = f32[12,384,768]{2,1,0:T(8,128)} parameter(0)
  %param.2 = bf16[64,768]{1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %tuple.2 = (s32[]{:T(128)}, f32[12,384,768]{2,1,0:T(8,128)}, bf16[64,768]{1,0:T(8,128)(2,1)}) tuple(%zero, %param.1, \
%param.2)
  %while.1 = (s32[]{:T(128)}, f32[12,384,768]{2,1,0:T(8,128)}, bf16[64,768]{1,0:T(8,128)(2,1)}) while(%tuple.2), \
condition=%condition.1, body=%body.1, metadata={op_name="jit(_train_step)/while/body"}
  %last = bf16[64,768]{1,0:T(8,128)(2,1)} get-tuple-element(%while.1), index=2
  %custom-call.1 = f32[1000]{0:T(1024)S(1)} custom-call(%last), custom_call_target="tpu_custom_call", \
backend_config={"body": "module {\\"name\\"
  %not.an.instruction = f32[1] what(%ever)
}"}
  ROOT %all-reduce.2 = f32[1000]{0:T(1024)} all-reduce(%custom-call.1), channel_id=2, replica_groups=[1,4]<=[4], \
use_global_device_ids=true, to_apply=%add.1
}
"""
