package org.mnv3.demo

import android.graphics.BitmapFactory
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.mnv3.demo.core.Postprocessor
import org.mnv3.demo.core.Preprocessor
import org.tensorflow.lite.Interpreter

/** The bundle's goldens on the device itself: the picture gives the tensor, the tensor the output, the output the class. */
@RunWith(AndroidJUnit4::class)
class GoldenTest {
    private val bundle = BundleAssets(InstrumentationRegistry.getInstrumentation().targetContext)

    @Test
    fun picturesGiveTheExactTensors() {
        val preprocessor = Preprocessor(bundle.contract)
        for (golden in bundle.goldens) {
            val png = bundle.bytes(golden.picture)
            val tensor = preprocessor.tensor(BitmapFactory.decodeByteArray(png, 0, png.size).pixels())
            assertArrayEquals(golden.input, bundle.bytes(golden.input), ByteArray(tensor.remaining()).also { tensor.get(it) })
        }
    }

    @Test
    fun tensorsGiveTheOutputs() {
        val postprocessor = Postprocessor(bundle.contract, bundle.labels)
        LiteRtClassifier(bundle, Interpreter.Options().setNumThreads(1).setUseXNNPACK(true)).use { classifier ->
            for (golden in bundle.goldens) {
                val expected = bundle.bytes(golden.input)
                val tensor = ByteBuffer.allocateDirect(expected.size).order(ByteOrder.nativeOrder()).apply { put(expected).rewind() }
                val output = classifier.run(tensor)
                assertEquals(golden.label, postprocessor.top(output, 1).first().label)
                // Another CPU may round the last bit differently: one step of the 8-bit output.
                val found = ByteArray(bundle.contract.output.bytes).also { output.duplicate().apply { rewind() }.get(it) }
                val wanted = bundle.bytes(golden.output)
                val steps = found.indices.maxOf { abs((found[it].toInt() and 0xFF) - (wanted[it].toInt() and 0xFF)) }
                assertTrue("${golden.output}: $steps steps", bundle.contract.output.dtype == "float32" || steps <= 1)
            }
        }
    }
}
